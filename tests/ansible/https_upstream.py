"""Stands in for the hub's proxy behind Caddy: tells what it was asked, in each of the ways that matter there."""

import http.server
import json
import socketserver


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Tell the headers; fail as the proxy or as the hub does; or take a WebSocket and send everything back."""
        if self.path == "/proxy-alone":
            self._answer(503, b"Service Unavailable", {})
        elif self.path == "/not-running":
            self._answer(503, b"Your server does not run", {"Content-Type": "text/html"})
        elif self.headers.get("Upgrade") == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            while data := self.connection.recv(65536):
                self.connection.sendall(data)
            self.close_connection = True
        else:
            told = json.dumps(dict(self.headers)).encode()
            self._answer(200, told, {"Content-Type": "application/json"})

    def do_PUT(self) -> None:
        """Count what is uploaded, piece by piece."""
        left = size = int(self.headers["Content-Length"])
        while left > 0:
            left -= len(self.rfile.read(min(left, 65536)))
        self._answer(200, str(size).encode(), {"Content-Type": "text/plain"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(socketserver.ThreadingTCPServer):
    """One thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", 8000), Handler).serve_forever()
