"""What came of the looks at one host: whether it answers, since when it does not, when the next one is due."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idl_hub.spawners.host import HostError

log = logging.getLogger("idl_hub.keeper")
_SOON_SECONDS = 0.5
_SILENT_SECONDS = 2
_UNSETTLED_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when a host does not answer, in seconds since 1970, and why, in words."""

    since: float
    why: str


class Looked:
    """What came of the looks at one host."""

    def __init__(self) -> None:
        self.since_start = asyncio.Event()
        self.due = asyncio.Event()
        self.fault = ""
        self.silent_since = 0.0
        self.unsettled_until = 0.0

    def something_ended(self) -> None:
        """Have looks follow soon: an engine tells of an end a moment before its lists show it."""
        self.unsettled_until = time.monotonic() + _UNSETTLED_SECONDS
        self.due.set()

    def seconds_to_next(self, interval_seconds: float) -> float:
        """Return how long to wait before the next look, unless something makes one due."""
        if not self.since_start.is_set():
            return _SOON_SECONDS  # right after a start people wait for the first look
        if time.monotonic() < self.unsettled_until:
            return _SOON_SECONDS
        return min(interval_seconds, _SILENT_SECONDS) if self.fault else interval_seconds

    def failed(self, name: str, error: HostError) -> None:
        """Note that the host did not answer."""
        if not self.fault:
            log.warning("%s does not answer; its sessions are left as they are: %s", name, error)
            self.silent_since = self.silent_since or time.time()
        self.fault = str(error)

    def succeeded(self, name: str) -> None:
        """Note that its containers were listed."""
        if self.fault:
            log.info("%s answers again", name)
        self.fault = ""
        self.silent_since = 0.0
        self.since_start.set()
