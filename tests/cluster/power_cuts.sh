#!/usr/bin/env bash
# Real power cuts of a cluster: three members, each on a filesystem whose device loses its volatile cache while it takes writes.
#
#     tests/cluster/power_cuts.sh QMESH [ROUNDS]
#
# How a cut works is told in tests/crash/power_cuts.sh; here every member has two filesystems of its own. Each round: writers at every
# member note what was acknowledged; at a random moment the power of one member goes, or (every third round) that of all three.
#
# One member: the others go on, what was acknowledged is read back at both while it is away, and at all three when it is back.
# All: two of them, by chance, are started again. They are a majority, so everything that was acknowledged has to be on their disks;
# then the third.
#
# The last line but one has the totals. Needs root and loop devices; says so and ends with 0 where there are none.
set -euo pipefail
qmesh=$(readlink -f "$1")
rounds=${2:-50}
skip() { echo "power cuts of a cluster: skipped, $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "needs root"
losetup -f >/dev/null 2>&1 || skip "no loop devices"
command -v xfs_io >/dev/null || { apt-get update -q && apt-get install -y -q xfsprogs; } >/dev/null 2>&1 || skip "no xfs_io and no way to install it"

work=$(mktemp -d)
members=(1 2 3)
declare -A process=() writer=() address=()
cleanup() {
    set +e
    for running in "${process[@]}" "${writer[@]}"; do kill -9 "$running" 2>/dev/null; done
    pkill -9 -P $$ 2>/dev/null
    for member in "${members[@]}"; do
        umount "$work/disk$member" 2>/dev/null
        umount "$work/below$member" 2>/dev/null
    done
    rm -rf "$work"
}
trap cleanup EXIT
for member in "${members[@]}"; do
    mkdir "$work/below$member" "$work/disk$member"
    truncate -s 900M "$work/image$member"
    mkfs.ext4 -qF "$work/image$member"
    mount -o loop "$work/image$member" "$work/below$member" 2>/dev/null || skip "this host mounts no loop devices"
    # Written once, so that later writes are overwrites and need nothing of the filesystem below but their own blocks.
    dd if=/dev/zero of="$work/below$member/disk" bs=1M count=640 conv=fsync status=none
    mkfs.ext4 -qF -E nodiscard "$work/below$member/disk"
    mount -o loop "$work/below$member/disk" "$work/disk$member"
    sync -f "$work/below$member"
done
# Small segments, so that rotation and sealing happen under the cuts too.
printf '[cpu]\ncores = 1\n[storage]\nsegment_mib = 8\nround_mib_max = 4\n' >"$work/tuning.toml"

round=0 acknowledged_total=0 single=0 whole=0 ended_by_itself=0 clusters=0
report() {
    echo "power cuts of a cluster: rounds=$1 of_one=$single of_all=$whole acknowledged=$acknowledged_total lost=${2:-0} ended_by_themselves=$ended_by_itself clusters=$clusters"
}
fail() {
    echo "power cuts of a cluster: round $round: $1"
    for member in "${members[@]}"; do sed "s/^/n$member: /" "$work/log$member" | tail -20; done
    report "$round" "${2:-0}"
    echo "$((round - 1)) passed, 1 failed"
    exit 1
}
free_port() { python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
start() {
    rm -f "$work/ready$1"
    QMESH_LOG=warn,openraft=off "$qmesh" up --data "$work/disk$1/data" --tuning "$work/tuning.toml" \
        --http 127.0.0.1:0 --quic 127.0.0.1:0 -o json >"$work/ready$1" 2>>"$work/log$1" &
    process[$1]=$!
    for _ in $(seq 600); do
        [ -s "$work/ready$1" ] && break
        kill -0 "${process[$1]}" 2>/dev/null || fail "member $1 did not start"
        sleep 0.05
    done
    [ -s "$work/ready$1" ] || fail "member $1 did not start within 30 s"
    address[$1]=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["quic"])' "$work/ready$1")
}
at() { local member=$1; shift; "$qmesh" "$@" --node "${address[$member]}"; }
# Whether every group has three voters and a primary, and every member all that is committed.
settled() {
    at 1 cluster status -o json 2>/dev/null | python3 -c '
import json, sys
groups = json.load(sys.stdin)["groups"]
sys.exit(0 if len(groups) == 5 and all(len(g["voters"]) == 3 and g["primary"] for g in groups) else 1)'
}
settles() {
    for _ in $(seq 300); do
        settled && return
        sleep 0.2
    done
    fail "the cluster does not settle"
}
begin() {
    for member in "${!process[@]}"; do
        kill "${process[$member]}" 2>/dev/null && wait "${process[$member]}" || true
    done
    process=()
    for member in "${members[@]}"; do
        rm -rf "$work/disk$member/data"
        : >"$work/acknowledged$member"
        : >"$work/log$member"
    done
    local first
    first=127.0.0.1:$(free_port)
    "$qmesh" init --data "$work/disk1/data" --name n1 --mesh "$first" >/dev/null
    start 1
    for member in 2 3; do
        "$qmesh" join "$first" --token "$(at 1 token issue)" --data "$work/disk$member/data" --name "n$member" \
            --mesh "127.0.0.1:$(free_port)" >/dev/null
        start "$member"
    done
    settles
    clusters=$((clusters + 1))
}
# Everything that was acknowledged anywhere is readable at member $1.
verify() {
    local notes told
    for notes in "${members[@]}"; do
        [ -s "$work/acknowledged$notes" ] || continue
        told=$(at "$1" bench acknowledged --verify "$work/acknowledged$notes" 2>>"$work/log$1" | tail -1) || true
        case $told in
        *", 0 lost") ;;
        *) fail "at member $1, of what member $notes acknowledged: ${told:-no answer}" "$(sed -n 's/.* acknowledged, \([0-9]*\) lost/\1/p' <<<"$told" | grep . || echo 1)" ;;
        esac
    done
}
write() {
    for member in "$@"; do
        "$qmesh" bench acknowledged --append "$work/acknowledged$member" --in-flight $((1 << RANDOM % 6)) \
            --node "${address[$member]}" >/dev/null 2>&1 &
        writer[$member]=$!
    done
}
rest() {
    for member in "${!writer[@]}"; do
        kill "${writer[$member]}" 2>/dev/null || true
        wait "${writer[$member]}" 2>/dev/null || true
    done
    writer=()
}
count() { cat "$work"/acknowledged? | wc -l; }
cut() {
    for member in "$@"; do xfs_io -x -c shutdown "$work/below$member" & done
    wait $(jobs -p | grep -vxF "$(printf '%s\n' "${process[@]}" "${writer[@]}")") 2>/dev/null || true
    sleep 0.3
    for member in "$@"; do
        code=0
        {
            kill -9 "${process[$member]}" || true
            wait "${process[$member]}" || code=$?
        } 2>/dev/null
        # 74: it ended by itself, as P3 says; 137: it had nothing to sync and was killed.
        case $code in
        74) ended_by_itself=$((ended_by_itself + 1)) ;;
        137) ;;
        *) fail "member $member ended with exit code $code" ;;
        esac
        unset "process[$member]"
    done
}
mend() {
    for member in "$@"; do
        umount "$work/disk$member"
        umount "$work/below$member"
        mount -o loop "$work/image$member" "$work/below$member"
        mount -o loop "$work/below$member/disk" "$work/disk$member"
        "$qmesh" inspect integrity "$work/disk$member/data" >>"$work/log$member" 2>&1 || fail "member $member is damaged"
    done
}

begin
for round in $(seq "$rounds"); do
    [ "$(df --output=pcent "$work/disk1" | tr -dc 0-9)" -le 50 ] || begin
    before=$(count)
    write "${members[@]}"
    wanted=$((before + 1 + RANDOM % 4000))
    for _ in $(seq 500); do
        [ "$(count)" -ge "$wanted" ] && break
        sleep "0.0$((RANDOM % 9 + 1))"
    done
    order=($(shuf -e "${members[@]}"))
    if [ $((round % 3)) = 0 ]; then
        cut "${members[@]}"
        rest
        mend "${members[@]}"
        start "${order[0]}"
        start "${order[1]}"
        verify "${order[0]}"
        verify "${order[1]}"
        start "${order[2]}"
        whole=$((whole + 1))
    else
        cut "${order[0]}"
        sleep 1
        rest
        verify "${order[1]}"
        verify "${order[2]}"
        mend "${order[0]}"
        start "${order[0]}"
        single=$((single + 1))
    fi
    acknowledged=$(($(count) - before))
    [ "$acknowledged" -gt 0 ] || fail "nothing was acknowledged, so the round shows nothing"
    acknowledged_total=$((acknowledged_total + acknowledged))
    settles
    for member in "${members[@]}"; do verify "$member"; done
done
report "$rounds"
echo "$rounds passed, 0 failed"
