"""Looks once a second and tells everybody who watches what has changed."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from idl_hub.gpus.service import closed_by
from idl_hub.web import me, picture
from idl_hub.web.changes import changes
from idl_hub.web.history import History
from idl_hub.web.records import Records, read
from idl_hub.web.viewer import message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from idl_hub.db import Reader
    from idl_hub.gpus.placement import Closed, GPUStanding
    from idl_hub.gpus.reading import ServerReading
    from idl_hub.web.picture import Picture
    from idl_hub.web.viewer import Viewer

log = logging.getLogger("idl_hub.web")
_BEAT_SECONDS = 5


class Live:
    """The newest picture and who watches it. One per process, run in its loop.

    Parameters
    ----------
    readings
        The newest reading of every server.
    standings
        From GPU UUID -> holder and what is out of service to what each GPU is to the hub.
    """

    def __init__(
        self,
        readings: Callable[[], Sequence[ServerReading]],
        standings: Callable[[dict[str, str], Closed], Sequence[GPUStanding]],
        reader: Reader,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._readings = readings
        self._standings = standings
        self._reader = reader
        self._clock = clock
        self._history = History()
        self._viewers: set[Viewer] = set()
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._records = Records()
        self._picture: Picture | None = None
        self._trouble_since: float | None = None
        self._told: Picture | None = None

    async def run(self, every_seconds: float = 1.0) -> None:
        """Look and tell until cancelled."""
        next_beat = 0.0
        while True:
            started = time.monotonic()
            try:
                self._note_utilization()
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
        async with self._looking:
            if self._picture is None or time.monotonic() - self._looked_at > oldest_seconds:
                started = time.monotonic()
                self._records = await self._reader.run(read)
                self._picture = self._paint()
                self._looked_at = started
            return self._picture

    async def about(self, user: str, server_name: str | None = None) -> dict[str, Any]:
        """Return what this person is told; raises as `now` does."""
        return self._about(await self.now(), user, server_name)

    @property
    def records(self) -> Records:
        """The tables as they were when the newest picture was made."""
        return self._records

    def _about(self, painted: Picture, user: str, server_name: str | None = None) -> dict[str, Any]:
        now = self._clock()

        def idle_seconds(uuid: str) -> float | None:
            return self._history.idle_seconds(uuid, now)

        return me.about(user, painted, self._records, idle_seconds, now, server_name)

    def _paint(self) -> Picture:
        holders = {gpu.uuid: lease.holder for lease in self._records.leases for gpu in lease.gpus}
        standings = self._standings(holders, closed_by(self._records.marks))
        return picture.paint(self._readings(), standings, self._records, self._history, self._clock())

    def _note_utilization(self) -> None:
        self._history.add(
            self._clock(),
            (
                (picture.gpu_key(reading.server, gpu.uuid, gpu.index), gpu.utilization_ratio)
                for reading in self._readings()
                for gpu in reading.gpus
            ),
        )

    async def _tell(self) -> None:
        try:
            painted = await self.now(0)
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
            viewer.tell_about(self._about(painted, viewer.user))

    def _tell_trouble(self, error: Exception) -> None:
        if self._trouble_since is None:
            self._trouble_since = self._clock()
            log.warning("The database does not answer: %s", error)
        self._send_all(message("trouble", {"since": round(self._trouble_since)}))

    def _send_all(self, text: bytes) -> None:
        for viewer in tuple(self._viewers):
            viewer.send(text)
