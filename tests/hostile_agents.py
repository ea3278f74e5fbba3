"""Agents that answer in every wrong way, on real sockets with TLS, in a thread of their own."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from agents import write_certificate, write_private

from idl_hub.gpus import GPU, ServerReading, wire
from idl_hub.gpus.fleet_agent import AgentClient
from idl_hub.gpus.reading import HEALTHY

TOKEN = "t" * 40
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def body_of(server: str, taken_at: float | None = None, age_seconds: float = 0.0, **told: Any) -> bytes:
    """Return what a good agent with one idle GPU says."""
    values: dict[str, Any] = {"memory_used_bytes": 0, "utilization_ratio": 0.0, "processes": ()}
    gpu = GPU(f"GPU-{server}", 0, HEALTHY, "GTX", **(values | told))
    reading = ServerReading(server, time.time() if taken_at is None else taken_at, HEALTHY, (gpu,))
    return wire.encode(reading, age_seconds)


def http(body: bytes, status: str = "200 OK", headers: str = "", length: int | None = None) -> bytes:
    told = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {told}\r\n{headers}\r\n".encode() + body


def saying(make: Callable[[], bytes]) -> Answer:
    """Answer each request with these bytes, then close."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(make())
        await writer.drain()

    return answer


def well(server: str) -> Answer:
    """Answer as a good agent does, for who knows the token."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if f"Authorization: Bearer {TOKEN}\r\n".encode() not in request:
            writer.write(http(b"401\n", "401 Unauthorized"))
        else:
            writer.write(http(body_of(server)))
        await writer.drain()

    return answer


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def endless(start: bytes, part: bytes, pause: float = 0.0) -> Answer:
    """Answer with a start and then the same part for ever."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)
        while not writer.is_closing():
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


def _chunk(size: int) -> bytes:
    return f"{size:x}\r\n".encode() + b" " * size + b"\r\n"


def hostile_answers() -> dict[str, Answer]:
    """Return name -> a wrong way to answer; the server is called by that name."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    stuck = {name: body_of(name, taken_at=1000.0) for name in ("nan", "truncated", "gzip", "types")}
    bomb = gzip.compress(b" " * 200_000_000, 1)
    return {
        "silent": silent,
        "garbage": saying(lambda: b"\x00\xff" * 4000),
        "truncated": saying(lambda: http(stuck["truncated"][:200], length=len(stuck["truncated"]))),
        "cut-json": saying(lambda: http(stuck["truncated"][:200])),
        "huge-declared": endless(http(b"", length=2**40), b" " * 65536),
        "huge-chunked": endless(chunked, _chunk(65536)),
        "endless-headers": endless(b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"y" * 100 + b"\r\n"),
        "endless-continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.001),
        "drip-body": endless(http(b"", length=5000), b"{", pause=0.05),
        "drip-headers": endless(b"HTTP/1.1 200 OK\r\n", b"X", pause=0.05),
        "nan": saying(lambda: http(stuck["nan"].replace(b'"utilization_ratio":0.0', b'"utilization_ratio":NaN'))),
        "types": saying(lambda: http(stuck["types"].replace(b'"index":0', b'"index":"0"'))),
        "not-a-reading": saying(lambda: http(b'{"version":1}')),
        "deep": saying(lambda: http(b"[" * 500_000)),
        "gzip": saying(lambda: http(bomb, headers="Content-Encoding: gzip\r\n")),
        "error": saying(lambda: http(b"", "500 Internal Server Error")),
        "other-name": well("somebody-else"),
    }


class Agents:
    """Servers on 127.0.0.1, each with its own way to answer.

    Parameters
    ----------
    directory
        For certificates and tokens.
    """

    def __init__(self, directory: Path) -> None:
        self.certificate, key = write_certificate(directory)
        self.token_file = write_private(directory / "token", TOKEN.encode())
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(self.certificate, key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self.connections: dict[int, int] = {}
        """Port -> how often somebody connected."""

    def __enter__(self) -> Agents:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def serve(self, answer: Answer, *, tls: bool = True) -> str:
        """Have a new server answer in this way; return its address."""
        port = self._wait(self._serve(answer, self._tls if tls else None))
        return f"https://127.0.0.1:{port}"

    def client(self, name: str, url: str, **options: Any) -> AgentClient:
        """Return the hub's client of a server, quick enough for a test."""
        values = {"token_file": self.token_file, "ca_file": self.certificate, "period": 0.1, "deadline": 1.0}
        return AgentClient(name, url, **(values | options))

    def _wait(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(20)

    async def _serve(self, answer: Answer, tls: ssl.SSLContext | None) -> int:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            self.connections[port] += 1
            try:
                with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await answer(reader, writer)
            finally:
                self._tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        self.connections[port] = 0
        return port

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
