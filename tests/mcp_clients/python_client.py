#!/usr/bin/env python3
"""The official Python client against a node's MCP door.

    python_client.py URL          for example http://127.0.0.1:8443/mcp

Lists and calls every tool, reads resources, gets prompts, completes arguments, listens to a ref. Exits 1 at the first mismatch.
The client is installed into $QMESH_TOOLS (default ~/.cache/qmesh-tools) the first time.
"""

import os
import subprocess
import sys
import venv

PACKAGE = "mcp==2.3.0"
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


def true(what: str, holds) -> None:
    if not holds:
        sys.exit(f"{what}: does not hold")


TOOL_NAMES = [
    "dag_get", "dag_order", "dag_put", "dag_put_batch", "dag_relate", "dag_tips", "dag_verify", "dag_walk",
    "node_status", "ref_get", "ref_set", "tools_search",
]


async def visit(url: str) -> None:
    import anyio
    import json
    import time
    from mcp import Client
    from mcp.types import PromptReference, ResourceTemplateReference

    mark = f"python-{time.time_ns()}"
    async with Client(url, mode="auto") as client:
        same("protocol version", client.protocol_version, "2026-07-28")
        same("server name", client.server_info.name, "qmesh")

        tools = (await client.list_tools()).tools
        same("tools", [tool.name for tool in tools], TOOL_NAMES)
        true("every tool has schemas", all(tool.input_schema and tool.output_schema for tool in tools))
        called = set()

        async def call(tool, arguments, error=None):
            called.add(tool)
            result = await client.call_tool(tool, arguments)
            same(f"{tool} {arguments} is an error", bool(result.is_error), error is not None)
            same(f"{tool}: text and structure", json.loads(result.content[0].text), result.structured_content)
            if error is not None:
                same(f"{tool} {arguments}", result.structured_content["reason"], error)
            return result.structured_content

        root = await call("dag_put", {"kind": "note", "payload": "größe \"1\"", "namespace": mark, "timestamp_ms": 1})
        true("a new vertex", not root["existed"])
        again = await call("dag_put", {"kind": "note", "payload": "größe \"1\"", "namespace": mark, "timestamp_ms": 1})
        same("the same vertex again", (again["id"], again["existed"]), (root["id"], True))
        batch = await call("dag_put_batch", {"vertices": [
            {"kind": "note", "namespace": mark, "parents": [root["id"]], "payload": "left"},
            {"kind": "note", "namespace": mark, "parents": [root["id"]], "payload_base64": "AP8="},
            {"kind": "merge", "namespace": mark, "parents": ["#0", "#1"], "labels": {"from": "python"}},
            {"kind": "NOT A KIND"},
        ]})
        same("batch", (batch["stored"], batch["refused"]), (3, 1))
        left, right, merge = (row["id"] for row in batch["results"][:3])
        same("the fourth", batch["results"][3]["error"]["reason"], "bad_request")
        token = batch["results"][2]["token"]

        got = await call("dag_get", {"ids": [merge, "0" * 64]})
        same("parents", got["vertices"][0]["parents"], [left, right])
        same("missing", got["missing"], ["0" * 64])
        got = await call("dag_get", {"ids": [left], "include": "header"})
        same("payload bytes", got["vertices"][0]["payload_bytes"], 4)
        await call("dag_get", {"ids": ["nonsense"]}, error="bad_request")
        await call("dag_put", {"kind": "note", "parents": ["1" * 64]}, error="missing_parents")

        walk = await call("dag_walk", {"roots": [merge], "token": token})
        true("a walk finds all", {root["id"], left, right} <= {row["id"] for row in walk["vertices"]})
        page = await call("dag_walk", {"roots": [merge], "limit": 1})
        rest = await call("dag_walk", {"roots": [merge], "cursor": page["cursor"]})
        same("pages", len(page["vertices"]) + len(rest["vertices"]), len(walk["vertices"]))
        order = await call("dag_order", {"roots": [merge]})
        ids = [row["id"] for row in order["vertices"]]
        same("order", (ids[0], ids[-1], len(ids)), (root["id"], merge, 4))
        tips = await call("dag_tips", {"namespace": mark})
        same("tips", [row["id"] for row in tips["vertices"]], [merge])
        same("lca", [row["id"] for row in (await call("dag_relate", {"op": "lca", "a": left, "b": right}))["vertices"]], [root["id"]])
        same("is_ancestor", await call("dag_relate", {"op": "is_ancestor", "a": root["id"], "b": merge}), {"is_ancestor": True})
        same("path", len((await call("dag_relate", {"op": "path", "a": merge, "b": root["id"]}))["vertices"]), 3)
        span = await call("dag_relate", {"op": "range", "a": left, "b": merge})
        same("range", {row["id"] for row in span["vertices"]}, {right, merge})
        diff = await call("dag_relate", {"op": "diff", "a": left, "b": right})
        same("diff", ([row["id"] for row in diff["only_a"]], [row["id"] for row in diff["only_b"]]), ([left], [right]))
        verified = await call("dag_verify", {"id": merge, "to": root["id"]})
        same("verified", (verified["valid"], verified["signature"], verified["ancestor"], len(verified["chain"])), (True, "none", True, 3))

        name = f"heads/{mark}/größe"
        moved = await call("ref_set", {"name": name, "new": left, "expected": "absent", "actor": "python"})
        same("moved", (moved["ref"]["at"], moved["ref"]["version"]), (left, 1))
        await call("ref_set", {"name": name, "new": right, "expected": "absent"}, error="conflict")
        state = await call("ref_get", {"name": name, "log": True})
        same("ref", (state["ref"]["at"], state["log"][0]["actor"]), (left, "python"))
        listed = await call("ref_get", {"prefix": f"heads/{mark}"})
        same("refs", [row["name"] for row in listed["refs"]], [name])
        await call("ref_get", {"name": "heads/nowhere"}, error="not_found")
        status = await call("node_status", {})
        true("vertices", 4 <= status["vertices"])
        true("cores", (await call("node_status", {"view": "shards"}))["cores"])
        found = await call("tools_search", {"query": "node status", "limit": 1})
        same("found", [tool["name"] for tool in found["tools"]], ["node_status"])
        same("every tool was called", sorted(called), TOOL_NAMES)

        templates = (await client.list_resource_templates()).resource_templates
        same("templates", len(templates), 8)
        resources = (await client.list_resources()).resources
        same("the first resource", resources[0].uri, "dag://state")

        async def read(uri):
            return (await client.read_resource(uri)).contents[0]

        same("payload", (await read(f"dag://vertex/{left}/payload")).text, "left")
        same("bytes", (await read(f"dag://vertex/{right}/payload")).blob, "AP8=")
        same("vertex", json.loads((await read(f"dag://vertex/{merge}")).text)["kind"], "merge")
        for part, wanted in [("parents", [left, right]), ("children", [])]:
            shown = json.loads((await read(f"dag://vertex/{merge}/{part}")).text)
            same(part, [row["id"] for row in shown["vertices"]], wanted)
        same("status", json.loads((await read(f"dag://vertex/{merge}/status")).text)["tip"], True)
        same("tips", len(json.loads((await read(f"dag://tips/{mark}")).text)["vertices"]), 1)
        same("walk", len(json.loads((await read(f"dag://walk?root={merge}&depth=1")).text)["vertices"]), len((await call("dag_walk", {"roots": [merge], "depth": 1}))["vertices"]))
        true("state", "vertices" in json.loads((await read("dag://state")).text))
        ref_uri = next(row.uri for row in resources if row.name == name) if len(resources) < 100 else None
        if ref_uri is not None:
            same("ref", json.loads((await read(ref_uri)).text)["at"], left)
        try:
            await read("dag://vertex/" + "2" * 64)
            sys.exit("a resource that is not there was read")
        except Exception as error:  # The client's own class differs between its versions.
            same("code", getattr(getattr(error, "error", error), "code", None), -32602)

        same("prompts", [prompt.name for prompt in (await client.list_prompts()).prompts], ["explain_history", "investigate_vertex"])
        prompt = await client.get_prompt("investigate_vertex", {"id": merge})
        same("messages", [message.content.type for message in prompt.messages], ["text"] + ["resource"] * 4)
        prompt = await client.get_prompt("explain_history", {"from": root["id"], "to": merge})
        true("messages", 2 <= len(prompt.messages))

        completed = await client.complete(PromptReference(type="ref/prompt", name="investigate_vertex"), {"name": "id", "value": merge[:20]})
        true("completion of an id", merge in completed.completion.values)
        template = ResourceTemplateReference(type="ref/resource", uri="dag://ref/{+name}")
        completed = await client.complete(template, {"name": "name", "value": f"heads/{mark}"})
        same("completion of a ref", completed.completion.values, [name])

        with anyio.fail_after(10):
            async with client.listen(resource_subscriptions=[f"dag://tips/{mark}", "dag://state", "file:///x"]) as subscription:
                await call("dag_put", {"kind": "note", "namespace": mark, "parents": [merge]})
                async for event in subscription:
                    true("an update of what was listened to", "tips" in str(event) or "state" in str(event))
                    break
    print(f"python client {PACKAGE}: {len(called)} tools, resources, prompts, completions and a subscription as expected")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    install()
    import anyio

    anyio.run(visit, sys.argv[1])
