"""Looks once a second and tells everybody who watches what has changed."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from idl_hub.gpus.idle import IdleTracker
from idl_hub.gpus.members import closed_with, servers_of
from idl_hub.gpus.service import closed_by
from idl_hub.web import me
from idl_hub.web.changes import changes
from idl_hub.web.history import Curves
from idl_hub.web.picture import Moment, paint
from idl_hub.web.records import Records, read
from idl_hub.web.viewer import message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from idl_hub.db import Reader
    from idl_hub.gpus.history import Point
    from idl_hub.gpus.placement import Closed, GPUStanding
    from idl_hub.gpus.reading import ServerReading
    from idl_hub.settings_servers import ServerSettings
    from idl_hub.web.picture import Picture, Terms
    from idl_hub.web.viewer import Viewer

log = logging.getLogger("idl_hub.web")
_BEAT_SECONDS = 5


class Fleet(Protocol):
    """What is asked of `idl_hub.gpus.fleet.Fleet`."""

    @property
    def names(self) -> tuple[str, ...]:
        """All servers."""

    @property
    def without_gpus(self) -> frozenset[str]:
        """Those that have no GPUs."""

    def follow(self, servers: Iterable[ServerSettings]) -> None:
        """Read these servers from now on."""

    def servers(self) -> tuple[ServerReading, ...]:
        """Return the newest reading of every server that has given one."""

    def faults(self) -> dict[str, str]:
        """Return server -> why it has no newer reading."""

    def standings(self, holders: Mapping[str, str]) -> tuple[GPUStanding, ...]:
        """Say of every GPU whether it can be given out, and why not."""

    def history(self, uuid: str) -> tuple[Point, ...]:
        """Return the last hour of a GPU."""

    def clear(self, uuid: str, at: float | None = None) -> None:
        """Note that an admin put a GPU into service again."""


class Live:
    """The newest picture and who watches it. One per process, run in its loop.

    Parameters
    ----------
    fleet
        To be run by whoever made it; what it takes for out of service is `closed`.
    """

    def __init__(
        self,
        fleet: Fleet,
        reader: Reader,
        terms: Terms,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fleet = fleet
        self._reader = reader
        self._terms = terms
        self._clock = clock
        self._curves = Curves(self._fleet.history)
        self._idle = IdleTracker()
        self._viewers: set[Viewer] = set()
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._records = Records()
        self._servers: tuple[ServerSettings, ...] = ()
        self._cleared: dict[str, float] = {}
        self._seen: tuple[Moment, Picture] | None = None
        self._told: Picture | None = None
        self._trouble_since: float | None = None

    async def run(self, every_seconds: float = 1.0) -> None:
        """Look and tell until cancelled."""
        next_beat = 0.0
        while True:
            started = time.monotonic()
            try:
                self._idle.follow(self._fleet.servers())
                if self._viewers:
                    await self._tell()
                if started >= next_beat:
                    next_beat = started + _BEAT_SECONDS
                    self._send_all(message("beat", {"now": round(self._clock())}))
            except Exception:
                log.exception("Looking at the GPUs failed; the next try is in %g s", every_seconds)
            await asyncio.sleep(max(0.05, started + every_seconds - time.monotonic()))

    def watch(self, viewer: Viewer) -> None:
        """Begin to tell this viewer; the whole picture comes first."""
        self._viewers.add(viewer)

    def watching(self, user: str) -> int:
        """Return how many connections of this person watch."""
        return sum(viewer.user == user for viewer in self._viewers)

    @property
    def viewers(self) -> int:
        """How many connections watch."""
        return len(self._viewers)

    def close(self) -> None:
        """Let everybody go, so that the process can end."""
        for viewer in self._viewers:
            viewer.close()

    def leave(self, viewer: Viewer) -> None:
        """Tell this viewer no more."""
        self._viewers.discard(viewer)

    async def now(self, oldest_seconds: float = 1.0) -> Picture:
        """Return a picture that is not older than this.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            When the database does not answer.
        """
        return (await self._look(oldest_seconds))[1]

    async def about(self, user: str, server_name: str | None = None, oldest_seconds: float = 1.0) -> dict[str, Any]:
        """Return what this person is told; raises as `now` does."""
        moment, painted = await self._look(oldest_seconds)
        return me.about(user, painted, moment, self._terms, server_name)

    def closed(self) -> Closed:
        """Return what is out of service, as the newest records say."""
        return closed_with(closed_by(self._records.marks), self._records.members)

    @property
    def records(self) -> Records:
        """The tables as they were when the newest picture was made."""
        return self._records

    async def _look(self, oldest_seconds: float) -> tuple[Moment, Picture]:
        async with self._looking:
            if self._seen is None or time.monotonic() - self._looked_at > oldest_seconds:
                started = time.monotonic()
                self._records = await self._reader.run(read)
                self._follow_members()
                self._seen = self._see()
                self._looked_at = started
            return self._seen

    def _follow_members(self) -> None:
        """Read the servers that the hub has now: some may have joined or left since this process started."""
        servers = servers_of(self._records.members)
        if servers and servers != self._servers:
            self._servers = servers
            self._fleet.follow(servers)

    def _see(self) -> tuple[Moment, Picture]:
        for uuid, at in (self._records.returned or {}).items():
            if self._cleared.get(uuid) != at:
                self._cleared[uuid] = at
                self._fleet.clear(uuid, at)
        now = self._clock()
        holders = {gpu.uuid: lease.holder for lease in self._records.leases for gpu in lease.gpus}
        moment = Moment(
            now=now,
            names=self._fleet.names,
            without_gpus=self._fleet.without_gpus,
            faults=self._fleet.faults(),
            readings=self._fleet.servers(),
            standings=self._fleet.standings(holders),
            records=self._records,
            curve=lambda uuid: self._curves.of(uuid, now),
            idle_since=self._idle.idle_since,
        )
        return moment, paint(moment, self._terms)

    async def _tell(self) -> None:
        try:
            moment, painted = await self._look(0)
        except (SQLAlchemyError, OSError) as error:
            self._tell_trouble(error)
            return
        before, self._told, self._trouble_since = self._told, painted, None
        viewers = tuple(self._viewers)
        # Serialised once, however many watch.
        news = whole = b""
        if before is not None and before != painted:
            news = message("change", changes(before, painted))
        if any(viewer.sees_all and viewer.needs_whole for viewer in viewers):
            whole = message("whole", painted.as_json())
        for viewer in viewers:
            if viewer.sees_all and (text := whole if viewer.needs_whole else news):
                viewer.send(text)
            viewer.tell_about(me.about(viewer.user, painted, moment, self._terms))

    def _tell_trouble(self, error: Exception) -> None:
        if self._trouble_since is None:
            self._trouble_since = self._clock()
            log.warning("The database does not answer: %s", error)
        self._send_all(message("trouble", {"since": round(self._trouble_since)}))

    def _send_all(self, text: bytes) -> None:
        for viewer in tuple(self._viewers):
            viewer.send(text)
