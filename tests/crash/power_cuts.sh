#!/usr/bin/env bash
# Real power cuts: a node on a loop-mounted filesystem that is shut down under it while it takes writes.
#
#     tests/crash/power_cuts.sh QMESH [ROUNDS]
#
# Each round: load, then XFS_IOC_GOINGDOWN without flushing the log (what was not synced is gone, below io_uring), kill, remount,
# start again, and read back every vertex that was ever acknowledged. Needs root and loop devices; says so and ends with 0 where
# there are none.
set -euo pipefail
qmesh=$(readlink -f "$1")
rounds=${2:-50}
skip() { echo "power cuts: skipped, $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "needs root"
losetup -f >/dev/null 2>&1 || skip "no loop devices"
command -v xfs_io >/dev/null || { apt-get update -q && apt-get install -y -q xfsprogs; } >/dev/null 2>&1 || skip "no xfs_io and no way to install it"

work=$(mktemp -d)
node=
cleanup() {
    [ -n "$node" ] && kill -9 "$node" 2>/dev/null
    umount "$work/disk" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
truncate -s 768M "$work/image"
mkfs.ext4 -qF "$work/image"
mkdir "$work/disk"
mount -o loop "$work/image" "$work/disk" 2>/dev/null || skip "this host mounts no loop devices"

start() {
    rm -f "$work/ready"
    "$qmesh" up --data "$work/disk/data" --tuning "$work/tuning.toml" --http 127.0.0.1:0 --quic 127.0.0.1:0 -o json >"$work/ready" 2>"$work/log" &
    node=$!
    for _ in $(seq 200); do
        [ -s "$work/ready" ] && break
        kill -0 "$node" 2>/dev/null || { echo "power cuts: the node did not start:"; cat "$work/log"; exit 1; }
        sleep 0.05
    done
    QMESH_NODE=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["quic"])' "$work/ready")
    export QMESH_NODE
}
# Small segments, so that rotation and recycling happen under the cuts too.
printf '[storage]\nsegment_mib = 8\nround_mib_max = 4\n' >"$work/tuning.toml"
: >"$work/acknowledged"
for round in $(seq "$rounds"); do
    start
    "$qmesh" bench acknowledged --verify "$work/acknowledged" || { echo "power cuts: round $round lost acknowledged writes"; exit 1; }
    "$qmesh" bench acknowledged --append "$work/acknowledged" --in-flight 64 >/dev/null 2>&1 &
    load=$!
    sleep "0.$((RANDOM % 8 + 1))"
    xfs_io -x -c shutdown "$work/disk"
    # The node ends by itself when its sync fails (P3); a node that had nothing to write is killed.
    sleep 0.3
    kill -9 "$node" 2>/dev/null || true
    code=0
    wait "$node" 2>/dev/null || code=$?
    # 74: it ended by itself, as P3 says; 137: it had nothing to sync and was killed.
    [ "$code" = 74 ] || [ "$code" = 137 ] || { echo "power cuts: round $round ended with exit code $code"; cat "$work/log"; exit 1; }
    kill "$load" 2>/dev/null || true
    wait "$load" 2>/dev/null || true
    node=
    umount "$work/disk"
    mount -o loop "$work/image" "$work/disk"
    "$qmesh" inspect integrity "$work/disk/data" >/dev/null || { echo "power cuts: round $round left damage"; exit 1; }
done
start
"$qmesh" bench acknowledged --verify "$work/acknowledged"
kill "$node" && wait "$node" || true
node=
echo "power cuts: $rounds rounds, $(wc -l <"$work/acknowledged") acknowledged vertices, none lost"
echo "$rounds passed, 0 failed"
