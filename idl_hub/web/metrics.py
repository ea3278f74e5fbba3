"""The metrics of `idl-hub web`, for Prometheus alone."""

from __future__ import annotations

import hmac
import logging
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from tornado import web

from idl_hub import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

    from idl_hub.web.live import Live

log = logging.getLogger("idl_hub.web")


class Metrics(web.RequestHandler):
    """`GET metrics`: who has the token of Prometheus; students reach this address, too."""

    def initialize(self, token: Callable[[], str]) -> None:
        """Know where the token of Prometheus is read; it may be replaced while this process runs."""
        self._token = token

    def get(self) -> None:
        """Give all metrics of this process."""
        given = self.request.headers.get("Authorization", "")
        try:
            wanted = self._token()
        except OSError as error:
            log.warning("Nobody may read metrics: the token of Prometheus cannot be read: %s", error)
            raise web.HTTPError(503) from error
        if not hmac.compare_digest(given.encode(), f"Bearer {wanted}".encode()):
            raise web.HTTPError(403)
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(REGISTRY))


class WebMetrics(Collector):
    """What the pages know of themselves."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def describe(self) -> Iterable[Metric]:
        """Say nothing: the registry need not ask for values to know the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Give all metrics as of now."""
        info = GaugeMetricFamily("idlhub_web_info", "The `idl-hub web` that answers.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily(
            "idlhub_web_viewers", "Browsers that a page of ours is open in.", float(self._live.viewers)
        )
