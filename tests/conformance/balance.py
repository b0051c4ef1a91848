"""A balancer that keeps nothing: each connection goes to a gateway at random, and each connection has one request.

    balance.py URL...
"""

import http.client
import http.server
import random
import sys
import urllib.parse

TARGETS = [urllib.parse.urlsplit(url) for url in sys.argv[1:]]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def forward(self):
        target = random.choice(TARGETS)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        upstream = http.client.HTTPConnection(target.netloc)
        # A browser page's origin and the name that was asked for pass as they came; only what names the connection is ours.
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()
        try:
            while piece := answer.read1(65536):
                self.wfile.write(piece)
                self.wfile.flush()
        except OSError:
            pass
        finally:
            upstream.close()
            self.close_connection = True

    do_GET = do_POST = do_DELETE = do_PUT = forward


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(f"http://127.0.0.1:{server.server_address[1]}/mcp", flush=True)
server.serve_forever()
