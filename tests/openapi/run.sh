#!/usr/bin/env bash
# Asks a node of its own everything that its OpenAPI description promises, by schemathesis: no 5xx, no answer of another form.
#
#     tests/openapi/run.sh QMESH [EXAMPLES]
#
# EXAMPLES is the number of cases an operation (30). Installs schemathesis from its registry into QMESH_TOOLS. The MCP endpoint and
# the endless watch are left out: real MCP clients and the fuzz targets have those.
set -euo pipefail
qmesh=$(readlink -f "$1")
examples=${2:-30}
here=$(cd "$(dirname "$0")" && pwd)
tools=${QMESH_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/qmesh-tools}/schemathesis-4.32.5
if [ ! -e "$tools/installed" ]; then
    python3 -m venv --clear "$tools"
    "$tools/bin/python" -m pip install -q --disable-pip-version-check schemathesis==4.32.5
    touch "$tools/installed"
fi
work=$(mktemp -d)
node=
cleanup() { [ -n "$node" ] && kill "$node" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"; }
trap cleanup EXIT
"$qmesh" up --data "$work/data" --http 127.0.0.1:0 --quic 127.0.0.1:0 -o json >"$work/ready" 2>"$work/log" &
node=$!
for _ in $(seq 200); do [ -s "$work/ready" ] && break; sleep 0.05; done
url=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["mcp"].removesuffix("/mcp"))' "$work/ready")
put() { curl -sf "$url/api/v1/dag/vertices" -d "$1" | python3 -c 'import json,sys; print(json.load(sys.stdin)["id"])'; }
root=$(put '{"kind":"note","payload":"root"}')
QMESH_KNOWN_ID=$(put "{\"kind\":\"note\",\"payload\":\"child\",\"parents\":[\"$root\"]}")
export QMESH_KNOWN_ID
curl -sf -X PUT "$url/api/v1/dag/refs/main" -H 'Content-Type: application/json' -d "{\"to\":\"$root\"}" >"$work/ref"
cd "$work"
SCHEMATHESIS_HOOKS=hooks PYTHONPATH=$here "$tools/bin/schemathesis" run "$url/openapi.json" --no-color --warnings off \
    --max-examples "$examples" --seed 7 --generation-database none --request-timeout 10 \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance,unsupported_method \
    --exclude-path /mcp --exclude-path /api/v1/dag/watch
kill "$node"
wait "$node"
node=
if grep -i panicked "$work/log"; then exit 1; fi
