"""An HTTP server before another one, which answers some requests itself: what a test wants a registry
to do that a real one only does now and then, or never.

    gateway = Gateway(registry.port)
    gateway.rules.append(lambda request: request.method == "GET" and (503, {}, b""))
    gateway.seen                          # every request: method, path, headers

A rule gets a request and returns (status, headers, body), or something false: then the next one is
asked, and in the end the server behind.
"""
import http.client
import http.server
import threading

from servers import ADDRESS

HOP = {"connection", "transfer-encoding", "keep-alive", "date", "server"}


class Request:
    def __init__(self, handler, body):
        self.method, self.path, self.headers, self.body = handler.command, handler.path, handler.headers, body
        self.handler = handler


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self, body)
        self.server.gateway.seen.append(request)
        for rule in self.server.gateway.rules:
            answer = rule(request)
            if answer:
                self.send(*answer)
                return
        self.forward(request)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def send(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        for piece in [body] if isinstance(body, bytes) else body:
            self.wfile.write(piece)

    def forward(self, request):
        connection = http.client.HTTPConnection(ADDRESS, self.server.gateway.behind)
        headers = {name: value for name, value in request.headers.items()
                   if name.lower() not in HOP | {"authorization"}}
        connection.request(request.method, request.path, request.body, headers)
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP | {"content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if request.method == "HEAD" else str(len(data))
        if length is not None and answer.status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data)
        connection.close()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that goes away is part of the tests."""


class Gateway:
    def __init__(self, behind):
        self.behind, self.rules, self.seen = behind, [], []
        self.server = Server((ADDRESS, 0), Handler)
        self.server.gateway = self
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
