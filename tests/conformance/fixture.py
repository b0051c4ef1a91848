"""An MCP server with what the official conformance suite asks for, to stand behind a gateway. Only Python's own library.

    fixture.py [--era modern|legacy] [--port N]

Prints its URL. `modern` speaks 2026-07-28 without sessions, `legacy` 2025-11-25 with one a client.
"""

import argparse
import hashlib
import hmac
import http.server
import json
import queue
import secrets
import threading
import time

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="
PREFIX = "io.modelcontextprotocol/"
KEY = secrets.token_bytes(32)
INFO = {"name": "conformance-fixture", "version": "1.0.0"}
EMPTY = {"type": "object", "properties": {}}


class Fault(Exception):
    """A JSON-RPC error."""

    def __init__(self, code, message, status=200, data=None):
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({"data": data} if data else {})
        self.status = status


def text(value):
    return {"type": "text", "text": value}


def content(*blocks, error=False):
    return {"content": list(blocks), "isError": error}


def said(*blocks):
    return {"messages": [{"role": "user", "content": block} for block in blocks]}


def embedded(uri, mime, value):
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": value}}


def form(message, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def sampling(question):
    messages = [{"role": "user", "content": text(question)}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": 100}}


ROOTS = {"method": "roots/list", "params": {}}
STRING, BOOLEAN = {"type": "string"}, {"type": "boolean"}


def needs(requests, state=None):
    result = {"resultType": "input_required", "inputRequests": requests}
    return result | ({"requestState": state} if state else {})


def seal(value):
    mark = hmac.new(KEY, value.encode(), hashlib.sha256).hexdigest()
    return f"{value}.{mark}"


def opened(state):
    value, _, mark = str(state).rpartition(".")
    if not value or not hmac.compare_digest(hmac.new(KEY, value.encode(), hashlib.sha256).hexdigest(), mark):
        raise Fault(-32602, "requestState was not made here")
    return value


def answered(params, key):
    """The accepted answer to one of our questions, or None where it is to be asked again."""
    answers = params.get("inputResponses")
    if answers is None:
        return None
    if not isinstance(answers, dict):
        raise Fault(-32602, "inputResponses must be an object")
    answer = answers.get(key)
    if answer is None:
        return None
    if not isinstance(answer, dict):
        raise Fault(-32602, f"inputResponses.{key} must be an object")
    return answer


def asks_once(key, request, shown):
    def tool(params, _call):
        answer = answered(params, key)
        return needs({key: request}) if answer is None else content(text(shown(answer)))

    return tool


def with_state(params, _call):
    if answered(params, "confirm") is None:
        return needs({"confirm": form("Please confirm", ok=BOOLEAN)}, seal("confirming"))
    opened(params.get("requestState"))
    return content(text("state-ok"))


def several(params, _call):
    wanted = {"user_name": form("What is your name?", name=STRING), "greeting": sampling("Greet me"), "client_roots": ROOTS}
    if any(answered(params, key) is None for key in wanted):
        return needs(wanted, seal("several"))
    opened(params.get("requestState"))
    return content(text("all answered"))


def rounds(params, _call):
    if answered(params, "step2") is not None and opened(params.get("requestState")) == "round-2":
        return content(text("both rounds answered"))
    if answered(params, "step1") is not None and opened(params.get("requestState")) == "round-1":
        return needs({"step2": form("Step 2: What is your favorite color?", color=STRING)}, seal("round-2"))
    return needs({"step1": form("Step 1: What is your name?", name=STRING)}, seal("round-1"))


def only_what_is_declared(params, call):
    able = call.capabilities
    known = {"elicitation": form("Who?", name=STRING), "sampling": sampling("Who?"), "roots": ROOTS}
    wanted = {name: request for name, request in known.items() if name in able}
    return needs(wanted) if wanted and params.get("inputResponses") is None else content(text("nothing to ask"))


def missing_capability(_params, call):
    if "sampling" not in call.capabilities:
        raise Fault(-32021, "this tool needs sampling", 400, {"requiredCapabilities": {"sampling": {}}})
    return content(text("there is sampling"))


def progress(_params, call):
    for done in (0, 50, 100):
        if call.progress_token is not None:
            told = {"progressToken": call.progress_token, "progress": done, "total": 100}
            call.notify("notifications/progress", told)
        time.sleep(0.05)
    return content(text("Progress test completed"))


def logging(_params, call):
    if call.log_level:
        for told in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            call.notify("notifications/message", {"level": "info", "data": told})
            time.sleep(0.05)
    return content(text("Logging test completed"))


def asks_model(params, call):
    answer = call.ask("sampling/createMessage", sampling(params.get("arguments", {}).get("prompt", "Hello"))["params"])
    return content(text("LLM response: " + answer.get("content", {}).get("text", "none")))


def asks_user(schema, message="Please provide your information"):
    def tool(params, call):
        shown = params.get("arguments", {}).get("message", message)
        answer = call.ask("elicitation/create", {"message": shown, "requestedSchema": schema})
        return content(text(f"User response: action={answer.get('action')}, content={json.dumps(answer.get('content'))}"))

    return tool


CONTACT = {"type": "object", "properties": {"username": STRING, "email": STRING}, "required": ["username", "email"]}
DEFAULTS = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
}
TITLED = [{"const": f"value{number}", "title": f"{name} Option"} for number, name in enumerate(["First", "Second", "Third"], 1)]
ENUMS = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": TITLED},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {"type": "array", "items": {"anyOf": TITLED}},
    },
}


def slow(params, _call):
    time.sleep(float(params.get("arguments", {}).get("seconds", 1)))
    return content(text("slept"))


class Lists:
    """What changes when it is asked to."""

    lock = threading.Lock()
    listeners = []
    changes = {"tools": 0, "prompts": 0}

    @classmethod
    def change(cls, which):
        with cls.lock:
            cls.changes[which] += 1
            listeners = list(cls.listeners)
        for listener in listeners:
            if listener.wanted.get(f"{which}ListChanged"):
                listener.messages.put(f"notifications/{which}/list_changed")


def changes(which):
    def tool(_params, _call):
        Lists.change(which)
        return content(text("changed"))

    return tool


NAMED = "json_schema_2020_12_tool"
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": STRING, "city": STRING},
        }
    },
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

TOOLS = {
    "test_simple_text": lambda *_: content(text("This is a simple text response for testing.")),
    "test_image_content": lambda *_: content({"type": "image", "data": PNG, "mimeType": "image/png"}),
    "test_audio_content": lambda *_: content({"type": "audio", "data": WAV, "mimeType": "audio/wav"}),
    "test_embedded_resource": lambda *_: content(
        embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ),
    "test_multiple_content_types": lambda *_: content(
        text("Multiple content types test:"),
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ),
    "test_error_handling": lambda *_: content(text("This tool intentionally returns an error for testing"), error=True),
    "test_tool_with_progress": progress,
    "test_tool_with_logging": logging,
    "test_logging_tool": logging,
    "test_slow": slow,
    "test_sampling": asks_model,
    "test_elicitation": asks_user(CONTACT),
    "test_elicitation_sep1034_defaults": asks_user(DEFAULTS),
    "test_elicitation_sep1330_enums": asks_user(ENUMS),
    NAMED: lambda *_: content(text("valid")),
    "test_trigger_tool_change": changes("tools"),
    "test_trigger_prompt_change": changes("prompts"),
    "test_missing_capability": missing_capability,
    "test_streaming_elicitation": asks_once("name", form("Name?", name=STRING), lambda _: "streamed"),
    "test_input_required_result_elicitation": asks_once(
        "user_name", form("What is your name?", name=STRING), lambda answer: f"Hello, {answer.get('content', {}).get('name')}!"
    ),
    "test_input_required_result_sampling": asks_once(
        "capital_question", sampling("What is the capital of France?"), lambda answer: json.dumps(answer.get("content"))
    ),
    "test_input_required_result_list_roots": asks_once(
        "client_roots", ROOTS, lambda answer: " ".join(root["uri"] for root in answer.get("roots", []))
    ),
    "test_input_required_result_request_state": with_state,
    "test_input_required_result_multiple_inputs": several,
    "test_input_required_result_multi_round": rounds,
    "test_input_required_result_tampered_state": with_state,
    "test_input_required_result_capabilities": only_what_is_declared,
}
LEGACY_ONLY = [name for name in TOOLS if name == "test_sampling" or name.startswith("test_elicitation")]
MODERN_ONLY = [name for name in TOOLS if "input_required" in name] + [
    "test_missing_capability",
    "test_streaming_elicitation",
    "test_trigger_tool_change",
    "test_trigger_prompt_change",
]


def arguments_of(*names):
    return [{"name": name, "description": f"The argument {name}", "required": True} for name in names]


def with_context(params):
    if answered(params, "user_context") is None:
        return needs({"user_context": form("What context should the prompt use?", context=STRING)})
    return said(text("With the context that was given."))


PROMPTS = {
    "test_simple_prompt": ([], lambda _: said(text("This is a simple prompt for testing."))),
    "test_prompt_with_arguments": (
        ["arg1", "arg2"],
        lambda params: said(
            text("Prompt with arguments: arg1='{arg1}', arg2='{arg2}'".format(**params.get("arguments", {})))
        ),
    ),
    "test_prompt_with_embedded_resource": (
        ["resourceUri"],
        lambda params: said(
            embedded(params["arguments"]["resourceUri"], "text/plain", "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ),
    ),
    "test_prompt_with_image": (
        [],
        lambda _: said({"type": "image", "data": PNG, "mimeType": "image/png"}, text("Please analyze the image above.")),
    ),
    "test_input_required_result_prompt": ([], with_context),
}


def read(uri):
    if uri == "test://static-text":
        return {"uri": uri, "mimeType": "text/plain", "text": "This is the content of the static text resource."}
    if uri == "test://watched-resource":
        return {"uri": uri, "mimeType": "text/plain", "text": "Watched."}
    if uri == "test://static-binary":
        return {"uri": uri, "mimeType": "image/png", "blob": PNG}
    if uri.startswith("test://template/") and uri.endswith("/data"):
        name = uri.removeprefix("test://template/").removesuffix("/data")
        value = json.dumps({"id": name, "templateTest": True, "data": f"Data for ID: {name}"})
        return {"uri": uri, "mimeType": "application/json", "text": value}
    raise Fault(-32602, f"no resource {uri}", data={"uri": uri})


def tools(era):
    listed = [
        {"name": name, "description": f"The conformance suite's {name}", "inputSchema": SCHEMA if name == NAMED else EMPTY}
        for name in TOOLS
        if name not in (LEGACY_ONLY if era == "modern" else MODERN_ONLY)
    ]
    if Lists.changes["tools"] % 2:
        listed.append({"name": "test_dynamic_tool", "description": "Comes and goes", "inputSchema": EMPTY})
    return listed


def prompts():
    listed = [
        {"name": name, "description": f"The conformance suite's {name}", "arguments": arguments_of(*names)}
        for name, (names, _) in PROMPTS.items()
    ]
    if Lists.changes["prompts"] % 2:
        listed.append({"name": "test_dynamic_prompt", "description": "Comes and goes"})
    return listed


RESOURCES = [
    {"uri": "test://watched-resource", "name": "Watched", "mimeType": "text/plain"},
    {"uri": "test://static-text", "name": "Static text", "mimeType": "text/plain"},
    {"uri": "test://static-binary", "name": "Static binary", "mimeType": "image/png"},
]
TEMPLATES = [{"uriTemplate": "test://template/{id}/data", "name": "Template", "mimeType": "application/json"}]
FRESH = {"ttlMs": 1000, "cacheScope": "public"}
CAPABILITIES = {
    "modern": {"tools": {"listChanged": True}, "prompts": {"listChanged": True}, "resources": {}, "completions": {}},
    "legacy": {"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "completions": {}, "logging": {}},
}


class Handler(http.server.BaseHTTPRequestHandler):
    """One request; a stream begins when something comes before the answer."""

    protocol_version = "HTTP/1.1"
    era = "modern"
    sessions = set()
    questions = {}

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.bare(405)

    def do_DELETE(self):
        Handler.sessions.discard(self.headers.get("mcp-session-id"))
        self.bare(200)

    def do_POST(self):
        self.streaming = False
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        message = json.loads(body)
        if "id" not in message:
            return self.bare(202)
        if "method" not in message:
            asked = Handler.questions.get((self.headers.get("mcp-session-id"), message["id"]))
            if asked:
                asked.put(message)
            return self.bare(202 if asked else 400)
        self.id, params = message["id"], message.get("params") or {}
        meta = params.get("_meta") or {}
        self.capabilities = meta.get(PREFIX + "clientCapabilities") or {}
        self.log_level = meta.get(PREFIX + "logLevel") or self.era == "legacy"
        self.progress_token = meta.get("progressToken")
        session = None
        try:
            if self.era == "modern":
                if self.headers.get("mcp-method") != message["method"]:
                    raise Fault(-32020, "Mcp-Method does not mirror the body", 400)
                if message["method"] == "subscriptions/listen":
                    return self.listen(params)
            elif message["method"] == "initialize":
                session = secrets.token_hex(16)
                Handler.sessions.add(session)
            elif PREFIX + "protocolVersion" in meta:
                raise Fault(-32602, "a request of another era", 400)
            elif self.headers.get("mcp-session-id") not in Handler.sessions:
                return self.bare(404)
            result = self.result(message["method"], params)
            if self.era == "modern":
                result = {"resultType": "complete", "_meta": {PREFIX + "serverInfo": INFO}} | result
            self.answer({"jsonrpc": "2.0", "id": self.id, "result": result}, session=session)
        except Fault as fault:
            self.answer({"jsonrpc": "2.0", "id": self.id, "error": fault.error}, fault.status)

    def result(self, method, params):
        match method:
            case "server/discover" if self.era == "modern":
                return {"supportedVersions": ["2026-07-28"], "capabilities": CAPABILITIES[self.era]} | FRESH
            case "initialize" if self.era == "legacy":
                return {"protocolVersion": "2025-11-25", "capabilities": CAPABILITIES[self.era], "serverInfo": INFO}
            case "ping" if self.era == "legacy":
                return {}
            case "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" if self.era == "legacy":
                return {}
            case "tools/list":
                return {"tools": tools(self.era)} | FRESH
            case "prompts/list":
                return {"prompts": prompts()} | FRESH
            case "resources/list":
                return {"resources": RESOURCES} | FRESH
            case "resources/templates/list":
                return {"resourceTemplates": TEMPLATES} | FRESH
            case "tools/call" if params.get("name") in TOOLS:
                return TOOLS[params["name"]](params, self)
            case "prompts/get" if params.get("name") in PROMPTS:
                return PROMPTS[params["name"]][1](params)
            case "resources/read":
                return {"contents": [read(params.get("uri", ""))]} | FRESH
            case "completion/complete":
                return {"completion": {"values": ["paris", "park", "party"], "total": 3, "hasMore": False}}
            case "tools/call" | "prompts/get":
                raise Fault(-32602, f"no {params.get('name')}")
            case _:
                raise Fault(-32601, f"no method {method}", 404 if self.era == "modern" else 200)

    def listen(self, params):
        self.wanted = params.get("notifications") or {}
        self.messages = queue.Queue()
        honoured = {name: True for name in ("toolsListChanged", "promptsListChanged") if self.wanted.get(name)}
        self.told("notifications/subscriptions/acknowledged", {"notifications": honoured})
        with Lists.lock:
            Lists.listeners.append(self)
        try:
            while True:
                self.told(self.messages.get(), {})
        except OSError:
            pass
        finally:
            with Lists.lock:
                Lists.listeners.remove(self)

    def ask(self, method, params):
        """Asks the client on the stream of its call, and waits for what it posts."""
        question = (self.headers.get("mcp-session-id"), secrets.token_hex(4))
        Handler.questions[question] = queue.Queue()
        self.begin()
        self.event({"jsonrpc": "2.0", "id": question[1], "method": method, "params": params})
        try:
            answer = Handler.questions[question].get(timeout=10)
        except queue.Empty:
            raise Fault(-32603, "the client did not answer") from None
        finally:
            del Handler.questions[question]
        if "error" in answer:
            raise Fault(-32603, f"the client refused: {answer['error'].get('message')}")
        return answer["result"]

    def told(self, method, params):
        self.notify(method, params | {"_meta": {PREFIX + "subscriptionId": self.id}})

    def notify(self, method, params):
        self.begin()
        self.event({"jsonrpc": "2.0", "method": method, "params": params})

    def begin(self):
        if not self.streaming:
            self.streaming = True
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()

    def event(self, message):
        self.wfile.write(f"event: message\ndata: {json.dumps(message)}\n\n".encode())
        self.wfile.flush()

    def answer(self, message, status=200, session=None):
        if self.streaming:
            self.event(message)
            self.close_connection = True
            return
        body = json.dumps(message).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if session:
            self.send_header("mcp-session-id", session)
        self.end_headers()
        self.wfile.write(body)

    def bare(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--era", choices=["modern", "legacy"], default="modern")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    Handler.era = arguments.era
    server = Server(("127.0.0.1", arguments.port), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/mcp", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
