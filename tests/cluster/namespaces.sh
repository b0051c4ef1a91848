#!/bin/sh
# Faults of a real network: three nodes in three network namespaces, joined by veth pairs and a bridge, cut and thinned under load.
#
#   tests/cluster/namespaces.sh QMESH_BINARY
#
# Needs root. Clients are started inside the namespaces, because a node's client doors are loopback only. QMESH_NS_SECONDS is how long
# each fault lasts (5 when not set; the one-way partition of the record is 60), QMESH_NS_HEAL_MS the time for full service after it
# (5000 when not set).
#
# Each round: writers at every member note what was acknowledged; the fault; the heal; then the time until every member has
# acknowledged another write. At the end everything that was acknowledged is read back at every member. Exit 0: nothing was lost and
# every heal was in time.
set -eu

qmesh=$(readlink -f "$1")
seconds=${QMESH_NS_SECONDS:-5}
heal_ms_max=${QMESH_NS_HEAL_MS:-5000}

skip() { echo "skipped: $1"; exit 0; }

[ "$(id -u)" = 0 ] || skip "network namespaces need root"
for tool in ip:iproute2 iptables:iptables; do
    command -v "${tool%%:*}" > /dev/null || {
        apt-get install -y -qq "${tool##*:}" > /dev/null 2>&1 || skip "${tool%%:*} is not here and cannot be installed"
    }
done

# Names of this run, so that two at once do not meet.
run=$$
net() { echo "q$run-$1"; }
bridge="qb$run"
work=$(mktemp -d)

cleanup() {
    for file in "$work"/*.pid; do
        [ -e "$file" ] && kill -9 "$(cat "$file")" 2> /dev/null
    done
    for node in 1 2 3; do ip netns del "$(net $node)" 2> /dev/null; done
    ip link del "$bridge" 2> /dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

ip netns add "$(net 1)" 2> /dev/null || skip "this host makes no network namespaces"
ip netns del "$(net 1)"
ip link add "$bridge" type bridge 2> /dev/null || skip "this host makes no bridges"
ip link set "$bridge" up
for node in 1 2 3; do
    ip netns add "$(net $node)"
    ip link add "v$run-$node" type veth peer name eth0 netns "$(net $node)"
    ip link set "v$run-$node" master "$bridge" up
    ip -n "$(net $node)" addr add "10.77.0.$node/24" dev eth0
    ip -n "$(net $node)" link set eth0 up
    ip -n "$(net $node)" link set lo up
done

# within NODE COMMAND...: runs it where the node is.
within() { node=$1; shift; ip netns exec "$(net "$node")" "$@"; }
cli() { node=$1; shift; within "$node" "$qmesh" "$@" --node 127.0.0.1:7420; }

start() {
    QMESH_LOG=${QMESH_LOG:-warn,openraft=off} ip netns exec "$(net "$1")" "$qmesh" up --data "$work/n$1" --tuning "${QMESH_NS_TUNING:-laptop}" \
        --http 127.0.0.1:7410 --quic 127.0.0.1:7420 > "$work/n$1.out" 2> "$work/n$1.err" &
    echo $! > "$work/n$1.pid"
    tries=0
    until grep -q "is up" "$work/n$1.out" 2> /dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { cat "$work/n$1.err"; echo "node $1 does not start"; exit 1; }
        sleep 0.1
    done
}

within 1 "$qmesh" init --data "$work/n1" --name n1 --mesh 10.77.0.1:7430 > /dev/null
start 1
for node in 2 3; do
    token=$(cli 1 token issue)
    within $node "$qmesh" join 10.77.0.1:7430 --token "$token" --data "$work/n$node" --name n$node --mesh 10.77.0.$node:7430 > /dev/null
    start $node
done

# Whether every group has three voters and a primary, and n1 all that is committed. A member sees itself only: the others' doors
# for clients are in other namespaces.
settled() {
    cli 1 cluster status -o json 2> /dev/null | python3 -c '
import json, sys
groups = json.load(sys.stdin)["groups"]
alike = all(list(group["applied"].values()) == [group["committed"]] for group in groups)
sys.exit(0 if len(groups) == 5 and alike and all(len(g["voters"]) == 3 and g["primary"] for g in groups) else 1)'
}
settles() {
    tries=0
    until settled; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { cli 1 cluster status; echo "the cluster does not settle"; exit 1; }
        sleep 0.2
    done
}
settles

# Member 1 holds every shard's office where a fault is of "the primary".
offices_to_first() {
    for shard in 0 1 2 3; do cli 1 cluster promote $shard n1 > /dev/null; done
    tries=0
    until cli 1 cluster status -o json | python3 -c '
import json, sys
sys.exit(0 if all(g["primary"] == 1 for g in json.load(sys.stdin)["groups"] if g["group"] != "control") else 1)'; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { echo "the offices do not go to n1"; exit 1; }
        sleep 0.2
    done
}

writers_start() {
    for node in 1 2 3; do
        ( while :; do
            ip netns exec "$(net $node)" "$qmesh" bench acknowledged --seconds 600 --in-flight 8 --append "$work/notes-$node" \
                --node 127.0.0.1:7420 > /dev/null 2>&1 || true
            # A put whose patience ended ends its writer; another takes its place.
            sleep 0.1
        done ) &
        echo $! > "$work/writer-$node.pid"
    done
}
writers_stop() {
    for node in 1 2 3; do
        kill "$(cat "$work/writer-$node.pid")" 2> /dev/null || true
        rm -f "$work/writer-$node.pid"
        for pid in $(ip netns pids "$(net $node)"); do
            [ "$pid" = "$(cat "$work/n$node.pid")" ] || kill "$pid" 2> /dev/null || true
        done
    done
}

notes() { cat "$work"/notes-? 2> /dev/null | wc -l; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# Waits until a fresh write was acknowledged at every member; says how long that took.
full_service_ms() {
    from=$(now_ms)
    for node in 1 2 3; do
        until echo "fresh $node $from" | timeout 20 ip netns exec "$(net $node)" "$qmesh" dag put --kind probe --node 127.0.0.1:7420 - > /dev/null 2>&1; do
            [ $(($(now_ms) - from)) -lt 60000 ] || break
        done
    done
    echo $(($(now_ms) - from))
}

failed=0
lost=0
# round NAME FAULT HEAL
round() {
    name=$1 fault=$2 heal=$3
    offices_to_first
    writers_start
    sleep 1
    before=$(notes)
    $fault
    sleep "$seconds"
    during=$(($(notes) - before))
    $heal
    took=$(full_service_ms)
    writers_stop
    verdict=ok
    [ "$took" -le "$heal_ms_max" ] || { verdict="TOO LATE (at most $heal_ms_max ms)"; failed=1; }
    echo "$name for $seconds s: $during writes acknowledged meanwhile, full service $took ms after the heal: $verdict"
    settles
}

drop_in() { within "$1" iptables -A INPUT -p udp -s "10.77.0.$2" -j DROP; }
heal_all() { for node in 1 2 3; do within $node iptables -F INPUT; done; }

cut_symmetric() { ip link set "v$run-1" down; }
mend_symmetric() { ip link set "v$run-1" up; }
# What the primary says arrives, what is said to it does not.
cut_one_way() { drop_in 1 2; drop_in 1 3; }
# What the primary says does not arrive.
cut_other_way() { drop_in 2 1; drop_in 3 1; }
thin() {
    for node in 1 2 3; do
        within $node iptables -A INPUT -p udp -i eth0 -m statistic --mode random --probability 0.25 -j DROP
    done
}

round "the primary is cut off" cut_symmetric mend_symmetric
round "the primary hears nobody" cut_one_way heal_all
round "nobody hears the primary" cut_other_way heal_all
round "25 % of all packets are lost" thin heal_all

for node in 1 2 3; do
    for writer in 1 2 3; do
        [ -e "$work/notes-$writer" ] || continue
        told=$(cli $node bench acknowledged --verify "$work/notes-$writer" 2>&1 | tail -1) || true
        case $told in
            *", 0 lost") ;;
            *) failed=1; lost=1; echo "n$node of what n$writer acknowledged: $told" ;;
        esac
    done
done
echo "$(notes) writes acknowledged in all, read back at every member: $([ $lost = 0 ] && echo 'none lost' || echo 'SEE ABOVE')"
exit $failed
