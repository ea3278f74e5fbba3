"""Answers ``GET {prefix}api`` like a single-user server, after LIGHT_DELAY_SECONDS."""

import itertools
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

prefix = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
# What a kernel's variable is to a student: it is lost when the program ends.
asked = itertools.count(1)


class Handler(BaseHTTPRequestHandler):
    """Knows the API's root, and for tests the environment and how often it was asked for a number."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urlsplit(self.path).path
        if path == prefix + "api":
            answer = {"version": "light"}
        elif path == prefix + "light/environment":
            answer = {key: value for key, value in os.environ.items() if "TOKEN" not in key}
        elif path == prefix + "light/number":
            answer = next(asked)
        else:
            self.send_error(404)
            return
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
time.sleep(float(os.environ.get("LIGHT_DELAY_SECONDS", "0")))
port = urlsplit(os.environ.get("JUPYTERHUB_SERVICE_URL", "")).port or 8888
ThreadingHTTPServer(("", port), Handler).serve_forever()
