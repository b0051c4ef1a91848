#!/usr/bin/env python3
"""FastMCP's client against a node's MCP door, in both eras, and against a node that wants tokens.

    fastmcp_client.py URL GUARDED_URL

Lists, calls, reads, gets a prompt, completes; is refused without a token. Exits 1 at the first mismatch. The client is installed into
$QMESH_TOOLS (default ~/.cache/qmesh-tools) the first time.
"""

import os
import subprocess
import sys
import venv

PACKAGE = "fastmcp==4.2.3"
TOOLS = os.environ.get("QMESH_TOOLS") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "qmesh-tools"
)
FOLDER = os.path.join(TOOLS, PACKAGE.replace("==", "-"))
PYTHON = os.path.join(FOLDER, "bin", "python")


def install() -> None:
    """Makes an environment with the client and goes on inside it."""
    done = os.path.join(FOLDER, "installed")
    if not os.path.exists(done):
        venv.create(FOLDER, with_pip=True, clear=True)
        subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", PACKAGE], check=True)
        open(done, "w").close()
    if os.path.realpath(sys.prefix) != os.path.realpath(FOLDER):
        os.execv(PYTHON, [PYTHON, *sys.argv])


def same(what: str, found, wanted) -> None:
    if found != wanted:
        sys.exit(f"{what}: found {found!r}, wanted {wanted!r}")


async def visit(url: str, mode: str, version: str) -> None:
    import time
    from fastmcp import Client

    mark = f"fastmcp-{mode}-{time.time_ns()}"
    async with Client(url, mode=mode) as client:
        same(f"{mode}: revision", client.protocol_version, version)
        tools = await client.list_tools()
        same(f"{mode}: tools", (len(tools), tools[0].name), (12, "dag_get"))
        put = await client.call_tool("dag_put", {"kind": "note", "payload": mark})
        id = put.structured_content["id"]
        got = await client.call_tool("dag_get", {"ids": [id]})
        same(f"{mode}: got", got.structured_content["vertices"][0]["payload"], mark)
        read = await client.read_resource(f"dag://vertex/{id}/payload")
        same(f"{mode}: read", read[0].text, mark)
        same(f"{mode}: resources", str((await client.list_resources())[0].uri), "dag://state")
        prompt = await client.get_prompt("investigate_vertex", {"id": id})
        same(f"{mode}: prompt", prompt.messages[0].role, "user")
        wrong = await client.call_tool("dag_get", {"ids": ["nonsense"]}, raise_on_error=False)
        same(f"{mode}: refusal", (wrong.is_error, wrong.structured_content["reason"]), (True, "bad_request"))


async def knock(url: str) -> None:
    from fastmcp import Client

    try:
        async with Client(url) as client:
            await client.list_tools()
    except Exception:  # The class and its words differ between versions; curl looks at the status.
        return
    sys.exit("without a token: let in")


async def main(url: str, guarded: str) -> None:
    await visit(url, "auto", "2026-07-28")
    await visit(url, "legacy", "2025-11-25")
    await knock(guarded)
    print(f"{PACKAGE}: tools, resources and a prompt in both eras as expected, refused without a token")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    install()
    import asyncio

    asyncio.run(main(sys.argv[1], sys.argv[2]))
