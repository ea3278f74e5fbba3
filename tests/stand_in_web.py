"""Stands in for `idl-hub web` where a test wants the hub to say something that would take it hours to mean."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PREFIX = "/services/web"
GPU_BYTES = 11264 * 2**20


def session(gpu_uuid: str, **over: Any) -> dict[str, Any]:
    """Return an answer of ``api/me`` with a session on GPU 3 of gpu05; `over` replaces parts of the session."""
    now = time.time()
    gpu = {
        "uuid": gpu_uuid,
        "index": 3,
        "name": "NVIDIA GeForce GTX 1080 Ti",
        "utilization_ratio": 0.0,
        "memory_used_bytes": 0,
        "memory_total_bytes": GPU_BYTES,
        "temperature_celsius": 40,
        "health": "ok",
        "reason": "",
    }
    told = {
        "lease_id": "a-lease",
        "server": "gpu05",
        "server_name": "",
        "started_at": now - 3600,
        "gpus": [gpu],
        "idle_seconds": 0,
        "ends_at": now + 3 * 3600,
        "can_extend": False,
        "notice": None,
    }
    return {"simulated": True, "now": now, "session": told | over, "ticket": None, "free": 2, "total": 8}


def notice(kind: str, seconds: float, *, can_keep: bool = True, text: str = "") -> dict[str, Any]:
    """Return a notice whose deadline is so many seconds away."""
    text = text or "Your GPU has done nothing for 31 minutes, and 3 people wait for one."
    return {"kind": kind, "text": text, "deadline": time.time() + seconds, "can_keep": can_keep}


@dataclass
class StandInWeb:
    """What it answers and what it was asked; both may be changed and read at any time."""

    url: str
    me: Any = None
    """Answer to ``GET api/me``: an object, or bytes to be sent as they are; None: 403."""
    results: dict[str, dict[str, str]] = field(default_factory=dict)
    """Answer to ``POST api/me/NAME``; what is missing is refused."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request, without the prefix."""
    tokens: set[str | None] = field(default_factory=set)
    delay_seconds: float = 0.0

    def posts(self) -> list[str]:
        """Return what was asked for by POST."""
        return [path for method, path in self.asked if method == "POST"]

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        """Return status and body."""
        self.asked.append((method, path))
        time.sleep(self.delay_seconds)
        if method == "GET" and path == "/api/me" and self.me is not None:
            now = {} if isinstance(self.me, bytes) else {"now": time.time()}
            return 200, self.me if isinstance(self.me, bytes) else json.dumps(self.me | now).encode()
        result = self.results.get(path.rpartition("/")[2]) if method == "POST" else None
        if result is not None:
            return 202, json.dumps(result).encode()
        return 403, json.dumps({"message": "You may not do this."}).encode()


@contextmanager
def stand_in_web(address: str = "127.0.0.1") -> Iterator[StandInWeb]:
    """Serve on a free port of `address`."""
    holder: list[StandInWeb] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer("POST")

        def _answer(self, method: str) -> None:
            holder[0].tokens.add(self.headers.get("Authorization"))
            status, body = holder[0].answer(method, self.path.removeprefix(PREFIX))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
            """Keep quiet."""

    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    holder.append(StandInWeb(f"http://{address}:{server.server_port}{PREFIX}/"))
    thread.start()
    try:
        yield holder[0]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def changed(answer: Mapping[str, Any], **over: Any) -> dict[str, Any]:
    """Return an answer whose session differs in these parts."""
    return {**answer, "session": {**answer["session"], **over}}
