#!/usr/bin/env bash
# Real power cuts: a node on a filesystem whose device loses its volatile cache while it takes writes.
#
#     tests/crash/power_cuts.sh QMESH [ROUNDS]
#
# The node's filesystem lies on a loop device, whose image lies on a second filesystem. What the node writes stands in the page
# cache of that second filesystem until the device is asked to flush; XFS_IOC_GOINGDOWN on the second one, without flushing its
# log, takes away everything that was written and not flushed, as a disk's volatile cache does. (A cut of the first filesystem
# alone keeps what O_DIRECT has written, flushed or not, and so does not see an acknowledgement that came before its sync.)
#
# Each round: load on vertices and on a ref, the cut at a random moment, kill, remount, an offline look, start again, and read
# back everything that was ever acknowledged in this directory. Rounds change the disk backend and O_DIRECT. A directory that is
# half full is put away and a new one begun; what it held was read back by then.
#
# The last line but one has the totals. Needs root and loop devices; says so and ends with 0 where there are none.
set -euo pipefail
qmesh=$(readlink -f "$1")
rounds=${2:-50}
skip() { echo "power cuts: skipped, $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "needs root"
losetup -f >/dev/null 2>&1 || skip "no loop devices"
command -v xfs_io >/dev/null || { apt-get update -q && apt-get install -y -q xfsprogs; } >/dev/null 2>&1 || skip "no xfs_io and no way to install it"

work=$(mktemp -d)
node= load= mover=
cleanup() {
    for process in $node $load $mover; do kill -9 "$process" 2>/dev/null; done
    umount "$work/disk" 2>/dev/null
    umount "$work/below" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
mkdir "$work/below" "$work/disk"
truncate -s 1G "$work/image"
mkfs.ext4 -qF "$work/image"
mount -o loop "$work/image" "$work/below" 2>/dev/null || skip "this host mounts no loop devices"
# Written once, so that later writes are overwrites and need nothing of the filesystem below but their own blocks.
dd if=/dev/zero of="$work/below/disk" bs=1M count=768 conv=fsync status=none
mkfs.ext4 -qF -E nodiscard "$work/below/disk"
mount -o loop "$work/below/disk" "$work/disk"
sync -f "$work/below"

acknowledged_total=0 moves_total=0 lost_total=0 ended_by_itself=0 directories=1
report() {
    echo "power cuts: rounds=$1 acknowledged=$acknowledged_total ref_moves=$moves_total lost=$lost_total ended_by_themselves=$ended_by_itself directories=$directories"
}
fail() {
    echo "power cuts: round $round: $1"
    cat "$work/log"
    report "$round"
    echo "$((round - 1)) passed, 1 failed"
    exit 1
}
start() {
    rm -f "$work/ready"
    "$qmesh" up --data "$work/disk/data" --tuning "$work/tuning.toml" --http 127.0.0.1:0 --quic 127.0.0.1:0 -o json >"$work/ready" 2>"$work/log" &
    node=$!
    for _ in $(seq 600); do
        [ -s "$work/ready" ] && break
        kill -0 "$node" 2>/dev/null || fail "the node did not start"
        sleep 0.05
    done
    QMESH_NODE=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["quic"])' "$work/ready")
    export QMESH_NODE
}
# Everything that was acknowledged in this directory is here: vertices with their content, and the ref where it was left.
verify() {
    local told
    told=$("$qmesh" bench acknowledged --verify "$work/acknowledged" 2>>"$work/log") || true
    case $told in
    *", 0 lost") ;;
    *)
        lost_total=$((lost_total + $(sed -n 's/.* acknowledged, \([0-9]*\) lost/\1/p' <<<"$told" | grep . || echo 1)))
        fail "lost acknowledged writes: ${told:-the node does not answer}"
        ;;
    esac
    local moves version
    moves=$(wc -l <"$work/moves")
    if [ "$moves" -gt 0 ]; then
        version=$("$qmesh" ref get heads/cut -o json 2>>"$work/log" | python3 -c 'import json,sys; print(json.load(sys.stdin)["version"])') || version=0
        if [ "$version" -lt "$moves" ]; then
            lost_total=$((lost_total + moves - version))
            fail "the ref was moved $moves times and has version $version"
        fi
    fi
}
# Small segments, so that rotation and sealing happen under the cuts too.
tuning() {
    printf '[cpu]\ncores = 2\n[storage]\nsegment_mib = 8\nround_mib_max = 4\n' >"$work/tuning.toml"
    case $(($1 % 4)) in
    1) echo 'direct = false' >>"$work/tuning.toml" ;;
    2) echo 'backend = "threads"' >>"$work/tuning.toml" ;;
    3) printf 'backend = "threads"\ndirect = false\n' >>"$work/tuning.toml" ;;
    esac
}
begin() {
    rm -rf "$work/disk/data"
    : >"$work/acknowledged"
    : >"$work/moves"
}
begin
for round in $(seq "$rounds"); do
    if [ "$(df --output=pcent "$work/disk" | tr -dc 0-9)" -gt 50 ]; then
        begin
        directories=$((directories + 1))
    fi
    tuning "$round"
    start
    verify
    before=$(wc -l <"$work/acknowledged")
    begun=$(stat -c %s "$work/acknowledged")
    "$qmesh" bench acknowledged --append "$work/acknowledged" --in-flight $((1 << RANDOM % 8)) >/dev/null 2>&1 &
    load=$!
    moves_before=$(wc -l <"$work/moves")
    (
        first=$(echo cut | "$qmesh" dag put --kind note --timestamp-ms 1 - 2>/dev/null) || exit 0
        while "$qmesh" ref set heads/cut "$first" >/dev/null 2>&1; do echo moved >>"$work/moves"; done
    ) &
    mover=$!
    # A moment that is different each time, and not before something was acknowledged.
    wanted=$((begun + 65 * (1 + RANDOM % 3000)))
    for _ in $(seq 500); do
        [ "$(stat -c %s "$work/acknowledged")" -ge "$wanted" ] && break
        sleep "0.0$((RANDOM % 9 + 1))"
    done
    xfs_io -x -c shutdown "$work/below"
    # The node ends by itself when its sync fails (P3); a node that had nothing to write is killed.
    sleep 0.3
    kill -9 "$node" 2>/dev/null || true
    code=0
    wait "$node" 2>/dev/null || code=$?
    # 74: it ended by itself, as P3 says; 137: it had nothing to sync and was killed.
    case $code in
    74) ended_by_itself=$((ended_by_itself + 1)) ;;
    137) ;;
    *) fail "ended with exit code $code" ;;
    esac
    kill "$load" "$mover" 2>/dev/null || true
    wait "$load" "$mover" 2>/dev/null || true
    node= load= mover=
    acknowledged=$(($(wc -l <"$work/acknowledged") - before))
    [ "$acknowledged" -gt 0 ] || fail "nothing was acknowledged, so the round shows nothing"
    acknowledged_total=$((acknowledged_total + acknowledged))
    moves_total=$((moves_total + $(wc -l <"$work/moves") - moves_before))
    umount "$work/disk"
    umount "$work/below"
    mount -o loop "$work/image" "$work/below"
    mount -o loop "$work/below/disk" "$work/disk"
    "$qmesh" inspect integrity "$work/disk/data" >>"$work/log" 2>&1 || fail "left damage"
done
start
verify
kill "$node" && wait "$node" || true
node=
report "$rounds"
echo "$rounds passed, 0 failed"
