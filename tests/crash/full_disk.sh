#!/usr/bin/env bash
# A disk that fills up under a node (P3): writes stop with disk_full (exit 7), reads go on, and it clears by itself.
#
#     tests/crash/full_disk.sh QMESH
#
# Needs root for a small tmpfs; says so and ends with 0 where it cannot have one.
set -euo pipefail
qmesh=$(readlink -f "$1")
skip() { echo "full disk: skipped, $1"; exit 0; }
fail() { echo "full disk: $1"; exit 1; }
[ "$(id -u)" = 0 ] || skip "needs root"
work=$(mktemp -d)
node=
cleanup() { [ -n "$node" ] && kill -9 "$node" 2>/dev/null; umount "$work/disk" 2>/dev/null; rm -rf "$work"; }
trap cleanup EXIT
mkdir "$work/disk"
mount -t tmpfs -o size=96m none "$work/disk" 2>/dev/null || skip "this host mounts no tmpfs"
# tmpfs knows no O_DIRECT on every kernel; small segments, so that it fills soon.
printf '[cpu]\ncores = 1\n[storage]\nsegment_mib = 8\nround_mib_max = 4\ndirect = false\n' >"$work/tuning.toml"
"$qmesh" up --data "$work/disk/data" --tuning "$work/tuning.toml" --http 127.0.0.1:0 --quic 127.0.0.1:0 -o json >"$work/ready" 2>"$work/log" &
node=$!
for _ in $(seq 200); do [ -s "$work/ready" ] && break; sleep 0.05; done
QMESH_NODE=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["quic"])' "$work/ready")
export QMESH_NODE
first=$(echo first | "$qmesh" dag put --kind note -)
head -c 24M /dev/zero >"$work/disk/ballast"
head -c 65536 /dev/urandom >"$work/payload"
full=
for number in $(seq 4000); do
    if ! "$qmesh" dag put --kind blob --label "n=$number" "$work/payload" >/dev/null 2>"$work/told"; then full=$?; break; fi
done
[ -n "$full" ] || fail "it never filled"
grep -qi "full" "$work/told" || fail "the refusal does not say that the disk is full: $(cat "$work/told")"
[ "$("$qmesh" dag get "$first" --payload)" = first ] || fail "reads do not go on"
rm "$work/disk/ballast"
for _ in $(seq 100); do
    if "$qmesh" dag put --kind note "$work/payload" >/dev/null 2>&1; then cleared=1; break; fi
    sleep 0.1
done
[ -n "${cleared:-}" ] || fail "it does not clear by itself"
kill "$node"; wait "$node" || fail "it did not end with 0"
node=
"$qmesh" inspect integrity "$work/disk/data" >/dev/null || fail "damage was left"
echo "full disk: refused, read, cleared"
echo "1 passed, 0 failed"
