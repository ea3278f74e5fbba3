"""The agent's pages: one server's GPUs over HTTP, for the hub and for Prometheus. They change nothing.

``/readings`` is what `idl_hub.gpus.wire` decodes, ``/metrics`` Prometheus' text form, ``/health`` one
word. All but ``/health`` want the token.
"""

from __future__ import annotations

import hmac
from collections import Counter
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from idl_hub.gpus import wire
from idl_hub.gpus.agent_metrics import ReadingCollector

if TYPE_CHECKING:
    import ssl

    from tornado.iostream import IOStream

    from idl_hub.gpus.nvml_errors import ErrorCounts
    from idl_hub.gpus.sampler import Sampler
    from idl_hub.gpus.xids import XidLog

FRESH_SECONDS = 10.0
"""An older reading means that the agent itself is not well."""
HEADER_SECONDS = 20.0
"""A connection that has not brought a whole request in this time is closed."""
BODY_SECONDS = 5.0
HEADER_BYTES = 8192
BODY_BYTES = 1024
CONNECTIONS_PER_ADDRESS = 32
"""More are closed at once, so that one machine cannot keep the others out."""


class _Page(RequestHandler):
    """What all pages share: the token, short errors, nothing that tells about the program."""

    def initialize(self, sampler: Sampler, token: str | None, registry: CollectorRegistry) -> None:
        self.sampler = sampler
        self.registry = registry
        self._token = token

    def prepare(self) -> None:
        """Refuse who does not know the token."""
        if self._token is None:
            return
        scheme, _, given = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            self.set_header("WWW-Authenticate", "Bearer")
            raise HTTPError(401)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def write_error(self, status_code: int, **_details: Any) -> None:
        if status_code == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        self.finish(f"{status_code} {self._reason}\n")


class _Missing(_Page):
    def prepare(self) -> None:
        super().prepare()
        raise HTTPError(404)


class _Readings(_Page):
    def get(self) -> None:
        reading = self.sampler.latest()
        if reading is None:
            raise HTTPError(503, reason="No reading yet")
        self.set_header("Content-Type", "application/json")
        self.finish(wire.encode(reading, self.sampler.age_seconds()))


class _Metrics(_Page):
    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(self.registry))


class _Health(_Page):
    """Whether readings flow and NVML as a whole answers; for anybody, and so not a word more."""

    def prepare(self) -> None:
        pass

    def get(self) -> None:
        reading = self.sampler.latest()
        if reading is None or not reading.health.ok or self.sampler.age_seconds() > FRESH_SECONDS:
            self.set_status(503)
            self.finish("not ok\n")
            return
        self.finish("ok\n")


class AgentServer(HTTPServer):
    """The server: bounded in the size and the time of requests and in connections of one address."""

    def initialize(self, *arguments: Any, **options: Any) -> None:
        """Set up; tornado's place for what a constructor does."""
        super().initialize(*arguments, **options)
        self._open: Counter[str] = Counter()

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve a new connection, unless its address has too many."""
        host = address[0]
        if self._open[host] >= CONNECTIONS_PER_ADDRESS:
            stream.close()
            return
        self._open[host] += 1
        super().handle_stream(stream, address)

    def on_close(self, server_conn: Any) -> None:
        """Forget a connection that ended."""
        super().on_close(server_conn)
        host = server_conn.context.address[0]
        self._open[host] -= 1
        if self._open[host] <= 0:
            del self._open[host]


def make_server(
    sampler: Sampler, errors: ErrorCounts, xids: XidLog, *, token: str | None, tls: ssl.SSLContext | None
) -> AgentServer:
    """Return the server, which listens nowhere yet.

    Parameters
    ----------
    sampler
        Where readings come from; the caller starts and stops it.
    errors, xids
        NVML's errors and the driver's, for the metrics.
    token
        What a client must send as ``Authorization: Bearer``; None lets everybody in.
    tls
        Certificate and key; None speaks plain HTTP.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ReadingCollector(sampler, errors, xids))
    shared = {"sampler": sampler, "token": token, "registry": registry}
    pages = [("/readings", _Readings, shared), ("/metrics", _Metrics, shared), ("/health", _Health, shared)]
    application = Application(pages, default_handler_class=_Missing, default_handler_args=shared)
    return AgentServer(
        application,
        ssl_options=tls,
        max_header_size=HEADER_BYTES,
        max_body_size=BODY_BYTES,
        idle_connection_timeout=HEADER_SECONDS,
        body_timeout=BODY_SECONDS,
    )
