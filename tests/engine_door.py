"""A door in front of the Docker engine's socket: a test may close it, or hold single requests and answers back."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

ENGINE = "/var/run/docker.sock"
_SHORTEST_PATH_LIMIT = 100


class EngineDoor:
    """A unix socket that passes everything on to the real engine.

    `hold` keeps back the requests whose first line holds a text, or their answers; `held` tells that one waits.
    `hang` accepts and says nothing more; `close` refuses. `open` ends all of it, and what was held goes on.
    """

    def __init__(self, path: Path, engine: str = ENGINE) -> None:
        assert len(str(path)) < _SHORTEST_PATH_LIMIT, "the kernel allows no longer path of a socket"
        self.path = path
        self.url = f"unix://{path}"
        self.held = threading.Event()
        self._engine = engine
        self._may_pass = threading.Event()
        self._may_pass.set()
        self._text, self._answers = b"", False
        self._sockets: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Let everything pass."""
        self._text = b""
        self._may_pass.set()
        self.held.clear()
        if self._listener is None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.path))
            self._listener.listen(64)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Break all connections and take no new ones."""
        if self._listener is not None:
            self.path.unlink()
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self._may_pass.set()
        for connection in list(self._sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Take requests and answer none."""
        self.hold("HTTP/1.1")

    def hold(self, text: str, *, answers: bool = False) -> None:
        """Keep back requests with `text` in their first line; with `answers`, let them through and keep the answer."""
        self.held.clear()
        self._may_pass.clear()
        self._answers = answers
        self._text = text.encode()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(self._engine)
            self._sockets |= {client, engine}
            answer_may_pass = threading.Event()
            answer_may_pass.set()
            for pump in (self._requests, self._responses):
                threading.Thread(target=pump, args=(client, engine, answer_may_pass), daemon=True).start()

    def _requests(self, client: socket.socket, engine: socket.socket, answer_may_pass: threading.Event) -> None:
        with suppress(OSError):
            while chunk := client.recv(65536):
                # The client sends one request at a time on a connection, so a chunk begins with its first line.
                if self._text and self._text in chunk.split(b"\r\n", 1)[0]:
                    self._keep(answer_may_pass)
                engine.sendall(chunk)
        self._end(client, engine)

    def _keep(self, answer_may_pass: threading.Event) -> None:
        if self._answers:
            answer_may_pass.clear()
            return
        self.held.set()
        self._may_pass.wait()

    def _responses(self, client: socket.socket, engine: socket.socket, answer_may_pass: threading.Event) -> None:
        with suppress(OSError):
            while chunk := engine.recv(65536):
                if not answer_may_pass.is_set():
                    self.held.set()
                    self._may_pass.wait()
                    answer_may_pass.set()
                client.sendall(chunk)
        self._end(client, engine)

    def _end(self, *sockets: socket.socket) -> None:
        for connection in sockets:
            self._sockets.discard(connection)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def __enter__(self) -> EngineDoor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        with suppress(FileNotFoundError):
            self.path.unlink()
