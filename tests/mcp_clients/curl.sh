#!/usr/bin/env bash
# curl against a node's MCP door, in every version of HTTP that this curl speaks.
#
#     curl.sh URL TLS_URL AUTHORITY GUARDED_URL
#
# Lists, calls, reads, hears a change, takes compressed answers; is refused without a token. Exits 1 at the first mismatch.
set -euo pipefail
url=$1 tls_url=$2 authority=$3 guarded=$4
work=$(mktemp -d)
listener=
cleanup() { [ -n "$listener" ] && kill "$listener" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"; }
trap cleanup EXIT
fail() { echo "$*" >&2; exit 1; }
meta='"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}'

# ask VERSION-OPTIONS URL METHOD NAME PARAMS: the answer to a request of revision 2026-07-28.
ask() {
    local named=()
    [ -n "$4" ] && named=(-H "Mcp-Name: $4")
    # shellcheck disable=SC2086
    curl -sS --max-time 20 --compressed $1 "$2" -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \
        -H 'MCP-Protocol-Version: 2026-07-28' -H "Mcp-Method: $3" "${named[@]}" \
        -d "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$3\",\"params\":{$5${5:+,}$meta}}"
}

visit() {
    local name=$1 options=$2 to=$3 id put
    # shellcheck disable=SC2086
    [ "$(curl -sS $options -o /dev/null -w '%{http_version}' "${to%/mcp}/version")" = "$name" ] || fail "HTTP/$name was not spoken"
    ask "$options" "$to" tools/list '' '' | grep -q '"dag_get"' || fail "$name: tools"
    put=$(ask "$options" "$to" tools/call dag_put "\"name\":\"dag_put\",\"arguments\":{\"kind\":\"note\",\"payload\":\"curl $name\"}")
    id=$(grep -o '"id":"bafy[a-z0-9]*' <<<"$put" | head -1 | cut -d'"' -f4)
    [ -n "$id" ] || fail "$name: put: $put"
    ask "$options" "$to" tools/call dag_get "\"name\":\"dag_get\",\"arguments\":{\"ids\":[\"$id\"]}" | grep -q "curl $name" || fail "$name: get"
    ask "$options" "$to" resources/read "dag://vertex/$id/payload" "\"uri\":\"dag://vertex/$id/payload\"" | grep -q "curl $name" || fail "$name: read"
    ask "$options -N --max-time 60" "$to" subscriptions/listen '' '"notifications":{"resourceSubscriptions":["dag://state"]}' >"$work/heard" 2>/dev/null &
    listener=$!
    for _ in $(seq 100); do grep -q acknowledged "$work/heard" && break; sleep 0.05; done
    ask "$options" "$to" tools/call dag_put "\"name\":\"dag_put\",\"arguments\":{\"kind\":\"note\",\"payload\":\"news $name\"}" >"$work/put"
    for _ in $(seq 100); do grep -q resources/updated "$work/heard" && break; sleep 0.05; done
    grep -q resources/updated "$work/heard" || fail "$name: nothing was heard: $(cat "$work/heard")"
    kill "$listener"
    wait "$listener" 2>/dev/null || true
    listener=
}

visit 1.1 --http1.1 "$url"
visit 2 --http2-prior-knowledge "$url"
visit 2 "--http2 --cacert $authority" "$tls_url"
spoken="1.1, 2"
if curl --version | grep -q HTTP3; then
    visit 3 "--http3-only --cacert $authority" "$tls_url"
    spoken="$spoken, 3"
fi
for options in --http1.1 --http2-prior-knowledge; do
    code=$(curl -sS "$options" -o "$work/refused" -D "$work/head" -w '%{http_code}' "$guarded" -H 'Content-Type: application/json' -d '{}')
    [ "$code" = 401 ] || fail "without a token: $code"
    grep -qi '^www-authenticate: Bearer' "$work/head" || fail "without a token: no challenge"
done
echo "curl over HTTP/$spoken: tools, a resource and a subscription as expected, refused without a token"
