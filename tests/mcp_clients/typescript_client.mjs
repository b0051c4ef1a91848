// The official TypeScript SDK against a node's MCP door, over Streamable HTTP and over WebSocket, and against a node that wants tokens.
//
//     node typescript_client.mjs SDK_FOLDER URL GUARDED_URL
//
// Lists, calls, reads, gets a prompt, completes, hears a change of a resource; is refused without a token. Exits 1 at the first mismatch.
import { pathToFileURL } from "node:url";

const [sdk, url, guarded] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(`${sdk}/dist/esm/client/${path}.js`));
const { Client } = await load("index");
const { StreamableHTTPClientTransport } = await load("streamableHttp");
const { WebSocketClientTransport } = await load("websocket");

function same(what, found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    console.error(`${what}: found ${JSON.stringify(found)}, wanted ${JSON.stringify(wanted)}`);
    process.exit(1);
  }
}

async function visit(name, transport) {
  const client = new Client({ name: "qmesh-ci", version: "0" });
  await client.connect(transport);
  same(`${name}: server`, client.getServerVersion().name, "qmesh");
  const { tools } = await client.listTools();
  same(`${name}: tools`, [tools.length, tools[0].name], [12, "dag_get"]);
  const mark = `ts-${name}-${Date.now()}`;
  const put = await client.callTool({ name: "dag_put", arguments: { kind: "note", payload: mark } });
  const id = put.structuredContent.id;
  const got = await client.callTool({ name: "dag_get", arguments: { ids: [id] } });
  same(`${name}: got`, got.structuredContent.vertices[0].payload, mark);
  const many = [...Array(20).keys()].map((at) => client.callTool({ name: "dag_put", arguments: { kind: "note", payload: `${mark} ${at}` } }));
  same(`${name}: at once`, new Set((await Promise.all(many)).map((one) => one.structuredContent.id)).size, 20);
  const { resources } = await client.listResources();
  same(`${name}: resources`, resources[0].uri, "dag://state");
  const read = await client.readResource({ uri: `dag://vertex/${id}/payload` });
  same(`${name}: read`, read.contents[0].text, mark);
  const prompt = await client.getPrompt({ name: "investigate_vertex", arguments: { id } });
  same(`${name}: prompt`, prompt.messages[0].role, "user");
  const completed = await client.complete({ ref: { type: "ref/prompt", name: "investigate_vertex" }, argument: { name: "id", value: id.slice(0, 20) } });
  same(`${name}: completion`, completed.completion.values.includes(id), true);
  const wrong = await client.callTool({ name: "dag_get", arguments: { ids: ["nonsense"] } });
  same(`${name}: refusal`, [wrong.isError, wrong.structuredContent.reason], [true, "bad_request"]);
  const unknown = await client.readResource({ uri: "dag://nowhere" }).then(() => 0, (error) => error.code);
  same(`${name}: no resource`, unknown, -32602);
  await client.close();
}

await visit("http", new StreamableHTTPClientTransport(new URL(url)));
await visit("websocket", new WebSocketClientTransport(new URL(url.replace(/^http/, "ws"))));

const transports = [new StreamableHTTPClientTransport(new URL(guarded)), new WebSocketClientTransport(new URL(guarded.replace(/^http/, "ws")))];
for (const transport of transports) {
  const refused = await new Client({ name: "qmesh-ci", version: "0" }).connect(transport).then(() => "let in", () => "refused");
  same("without a token", refused, "refused");
}
console.log("TypeScript SDK: tools, resources, a prompt and completions over HTTP and WebSocket as expected, refused without a token");
process.exit(0);
