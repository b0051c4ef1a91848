#!/usr/bin/env bash
# Runs the official MCP clients against a node of its own.
#
#     tests/mcp_clients/run.sh QMESH
#
# Installs what it needs (the Python package mcp, a Node and the Inspector from their registries) into QMESH_TOOLS.
set -euo pipefail
qmesh=$(readlink -f "$1")
here=$(cd "$(dirname "$0")" && pwd)
export QMESH_TOOLS=${QMESH_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/qmesh-tools}
work=$(mktemp -d)
node=
cleanup() { [ -n "$node" ] && kill "$node" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"; }
trap cleanup EXIT
"$qmesh" up --data "$work/data" --http 127.0.0.1:0 --quic 127.0.0.1:0 -o json >"$work/ready" 2>"$work/log" &
node=$!
for _ in $(seq 200); do [ -s "$work/ready" ] && break; sleep 0.05; done
url=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["mcp"])' "$work/ready")
python3 "$here/python_client.py" "$url"
"$here/inspector.sh" "$url" modern
"$here/inspector.sh" "$url" legacy
kill "$node"
wait "$node"
node=
echo "3 passed, 0 failed"
