#!/usr/bin/env bash
# Wall clocks that jump: three members, each with a clock of its own (libfaketime), under load.
#
#     tests/cluster/clocks.sh QMESH
#
# Each round sets the clock of one member, or of all, an hour ahead, an hour back, and right again. Writers that end at their first
# failed request run at every member throughout; after every jump a member is stopped and started, so that handshakes, certificates
# and tokens meet the clocks as they are, and the cluster has to settle. At the end everything acknowledged is read back at every member.
#
# Says so and ends with 0 where libfaketime cannot be had.
set -euo pipefail
qmesh=$(readlink -f "$1")
skip() { echo "clocks: skipped, $1"; exit 0; }
library() { find /usr/lib -name 'libfaketimeMT.so.1' 2>/dev/null | head -1; }
[ -n "$(library)" ] || { apt-get update -q && apt-get install -y -q libfaketime; } >/dev/null 2>&1 || true
faketime=$(library)
[ -n "$faketime" ] || skip "no libfaketime and no way to install it"

work=$(mktemp -d)
declare -A process=() writer=() address=()
cleanup() {
    set +e
    {
        for running in "${process[@]}" "${writer[@]}"; do kill -9 "$running" && wait "$running"; done
    } 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
fail() {
    echo "clocks: $1"
    for member in 1 2 3; do tail -5 "$work/log$member" | sed "s/^/n$member: /"; done
    exit 1
}
free_port() { python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# with_clock MEMBER COMMAND...: runs it under that member's clock.
with_clock() {
    local member=$1
    shift
    LD_PRELOAD=$faketime FAKETIME_TIMESTAMP_FILE=$work/clock$member FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 exec "$@"
}
clock() { printf '%s\n' "$2" >"$work/clock$1.new" && mv "$work/clock$1.new" "$work/clock$1"; }
for member in 1 2 3; do
    clock "$member" +0
    : >"$work/log$member"
    : >"$work/acknowledged$member"
done
start() {
    rm -f "$work/ready$1"
    QMESH_LOG=warn,openraft=off with_clock "$1" "$qmesh" up --data "$work/n$1" --tuning laptop --http "127.0.0.1:${http[$1]}" \
        --quic "127.0.0.1:${quic[$1]}" -o json >"$work/ready$1" 2>>"$work/log$1" &
    process[$1]=$!
    for _ in $(seq 600); do
        [ -s "$work/ready$1" ] && break
        kill -0 "${process[$1]}" 2>/dev/null || fail "member $1 did not start"
        sleep 0.05
    done
    address[$1]=127.0.0.1:${quic[$1]}
}
at() { local member=$1; shift; "$qmesh" "$@" --node "${address[$member]}"; }
settled() {
    at 1 cluster status -o json 2>/dev/null | python3 -c '
import json, sys
status = json.load(sys.stdin)
groups = status["groups"]
answers = all(member["answers"] for member in status["members"])
sys.exit(0 if answers and len(groups) == 5 and all(len(g["voters"]) == 3 and g["primary"] and len(g["applied"]) == 3 for g in groups) else 1)'
}
settles() {
    for _ in $(seq 150); do
        settled && return
        sleep 0.2
    done
    at 1 cluster status || true
    fail "the cluster does not settle: $1"
}
declare -A http=() quic=()
for member in 1 2 3; do http[$member]=$(free_port) quic[$member]=$(free_port); done
mesh=127.0.0.1:$(free_port)
"$qmesh" init --data "$work/n1" --name n1 --mesh "$mesh" >/dev/null
start 1
for member in 2 3; do
    "$qmesh" join "$mesh" --token "$(at 1 token issue)" --data "$work/n$member" --name "n$member" --mesh "127.0.0.1:$(free_port)" >/dev/null
    start "$member"
done
settles "at the start"
lines() { wc -l <"$work/acknowledged$1"; }
load() {
    "$qmesh" bench acknowledged --seconds 600 --in-flight 4 --append "$work/acknowledged$1" --node "${address[$1]}" >/dev/null 2>&1 &
    writer[$1]=$!
}
# jump NAME MEMBERS OFFSET RESTARTED
jump() {
    local name=$1 members=$2 offset=$3 restarted=$4 member
    for member in 1 2 3; do load "$member"; done
    sleep 0.5
    for member in $members; do clock "$member" "$offset"; done
    for member in 1 2 3; do
        local before
        before=$(lines "$member")
        for _ in $(seq 100); do
            [ "$(lines "$member")" -gt $((before + 200)) ] && break
            sleep 0.1
        done
        [ "$(lines "$member")" -gt $((before + 200)) ] || fail "$name: member $member acknowledges nothing"
        kill -0 "${writer[$member]}" 2>/dev/null || fail "$name: a request failed at member $member"
    done
    for member in 1 2 3; do
        { kill "${writer[$member]}" && wait "${writer[$member]}"; } 2>/dev/null || true
    done
    kill "${process[$restarted]}" && wait "${process[$restarted]}" || fail "$name: member $restarted does not stop"
    start "$restarted"
    settles "$name, member $restarted started again"
    at "$restarted" dag put --kind note "$0" >/dev/null || fail "$name: member $restarted takes nothing"
    at "$restarted" cluster renew "n$restarted" >/dev/null || fail "$name: member $restarted gets no certificate"
    echo "clocks: $name: ok"
}
jump "one an hour ahead" 2 +1h 2
jump "one an hour back" 2 -1h 3
jump "one right again" 2 +0 2
jump "the first an hour back" 1 -1h 1
jump "all an hour ahead" "1 2 3" +1h 1
jump "all an hour back" "1 2 3" -1h 2
jump "all right again" "1 2 3" +0 3
lost=0
for member in 1 2 3; do
    for notes in 1 2 3; do
        told=$(at "$member" bench acknowledged --verify "$work/acknowledged$notes" | tail -1) || true
        case $told in *", 0 lost") ;; *) fail "at member $member, of member $notes: $told" ;; esac
    done
done
echo "clocks: $(cat "$work"/acknowledged? | wc -l) writes acknowledged, none lost; 7 passed, 0 failed"
