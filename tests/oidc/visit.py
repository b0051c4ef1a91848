#!/usr/bin/env python3
"""Visits a node that takes the tokens of a real issuer, as programs do that were told nothing but the node's address.

    visit.py URL ISSUER_PID          for example http://127.0.0.1:8443/mcp 4711

From the node's challenge to its metadata, from there to the issuer, from there to a token; then over REST by hand and over MCP
by the official Python client, whose own OAuth flow does the same. At the end the issuer is stopped. Exits 1 at the first mismatch.
"""

import base64
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "mcp_clients"))
from python_client import install, same, true  # noqa: E402

SECRET = "no-secret-in-a-test-and-long-enough-for-one"


def ask(url, token=None, body=None, headers=None, method=None):
    """Status, headers and JSON of one answer."""
    headers = dict(headers or {})
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if isinstance(body, dict):
        body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read() or b"null")


def by_hand(url: str) -> str:
    """Over REST; the answer is a token that the node has not seen."""
    origin = url.removesuffix("/mcp")
    tips, vertices = f"{origin}/api/v1/dag/tips", f"{origin}/api/v1/dag/vertices"
    status, headers, _ = ask(tips)
    same("without a token", status, 401)
    challenge = headers["WWW-Authenticate"]
    metadata_uri = re.search(r'resource_metadata="([^"]+)"', challenge).group(1)
    same("scope of the challenge", re.search(r'scope="([^"]+)"', challenge).group(1), "dag:read")
    _, _, metadata = ask(metadata_uri)
    same("resource", metadata["resource"], url)
    issuer = metadata["authorization_servers"][0]
    _, _, discovery = ask(f"{issuer}/.well-known/openid-configuration")

    def token(client: str, scope: str, resource: str = url) -> str:
        form = urllib.parse.urlencode({"grant_type": "client_credentials", "scope": scope, "resource": resource})
        basic = base64.b64encode(f"{client}:{SECRET}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
        status, _, answer = ask(discovery["token_endpoint"], body=form.encode(), headers=headers)
        same(f"a token for {client}", status, 200)
        return answer["access_token"]

    for algorithm in ["ES256", "RS256", "EdDSA"]:
        reader = token(f"reader-{algorithm}", "dag:read")
        for time in ["verified", "remembered"]:
            same(f"{algorithm}, {time}", ask(tips, reader)[0], 200)
        status, headers, _ = ask(vertices, reader, {"kind": "note", "payload": algorithm})
        same(f"{algorithm}: a reader that writes", status, 403)
        true("the step-up names all scopes", 'scope="dag:read dag:write"' in headers["WWW-Authenticate"])
        writer = token(f"writer-{algorithm}", "dag:read dag:write")
        same(f"{algorithm}: a writer", ask(vertices, writer, {"kind": "note", "payload": algorithm})[0], 201)
    status, _, problem = ask(tips, token("reader-ES384", "dag:read"))
    same("an algorithm that is not taken", (status, problem["reason"]), (401, "unauthenticated"))
    status, _, problem = ask(tips, token("reader-ES256", "dag:read", "https://elsewhere.example/mcp"))
    same("a token for somebody else", status, 401)
    true("its reason", "audience" in problem["detail"])
    good = token("reader-ES256", "dag:read")
    head, claims, signature = good.split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()
    same("alg none", ask(tips, f"{unsigned}.{claims}.")[0], 401)
    same("in the query", ask(f"{tips}?access_token={good}")[0], 400)
    _, _, explained = ask(f"{origin}/api/v1/route/explain?method=POST&path=/api/v1/dag/vertices", good)
    verdicts = {stage["stage"]: stage["verdict"] for stage in explained["stages"]}
    same("explained", (verdicts["authentication"], verdicts["authorisation"]), ("pass", "refuse"))
    return token("reader-EdDSA", "dag:read")


async def by_client(url: str, issuer: str) -> None:
    """The official client with its own OAuth flow."""
    import httpx2
    from mcp import Client
    from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
    from mcp.client.streamable_http import streamable_http_client

    class Storage:
        """Keeps what the flow learned, in memory."""

        tokens = client = None

        async def get_tokens(self):
            return self.tokens

        async def set_tokens(self, tokens):
            self.tokens = tokens

        async def get_client_info(self):
            return self.client

        async def set_client_info(self, client):
            self.client = client

    async def visit(name, work):
        flow = ClientCredentialsOAuthProvider(
            server_url=url, storage=Storage(), client_id=name, client_secret=SECRET, issuer=issuer
        )
        async with httpx2.AsyncClient(auth=flow, timeout=20) as http:
            async with Client(streamable_http_client(url, http_client=http), mode="2026-07-28") as client:
                await work(client)

    async def writes(client):
        true("tools", len((await client.list_tools()).tools) > 5)
        put = await client.call_tool("dag_put", {"kind": "note", "payload": "by a client with a token"})
        true("dag_put", not put.is_error)

    async def reads(client):
        tips = await client.call_tool("dag_tips", {})
        true("dag_tips", tips.structured_content["vertices"])

    # Each asks for no more than the challenges tell: the writer is led to dag:write by the step-up.
    await visit("writer-ES256", writes)
    await visit("reader-EdDSA", reads)
    try:
        async with Client(url, mode="2026-07-28") as client:
            await client.list_tools()
    except Exception:
        return
    sys.exit("a client without a token was let in")


def main() -> None:
    url, issuer_pid = sys.argv[1], int(sys.argv[2])
    fresh = by_hand(url)
    _, _, metadata = ask(url.removesuffix("/mcp") + "/.well-known/oauth-protected-resource/mcp")

    import anyio

    anyio.run(by_client, url, metadata["authorization_servers"][0])
    os.kill(issuer_pid, signal.SIGTERM)
    tips = url.removesuffix("/mcp") + "/api/v1/dag/tips"
    same("a token of an issuer that is gone", ask(tips, fresh)[0], 200)
    print("oidc-provider: REST by hand and MCP by the official client, from the challenge to the answer, as expected")


if __name__ == "__main__":
    install()
    main()
