"""How much room this server's home has, and what fills it; nobody waits for a file server that is slow."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from idl_hub.homes import space
from idl_hub.homes.patience import Patience, Silent
from idl_hub.homes.space import RUBBISH, Item, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

QUOTA_VARIABLE = "IDLHUB_HOME_QUOTA"
"""As idl_hub.spawners.home sets it: bytes, or `FILE_SYSTEM`."""
FILE_SYSTEM = "file system"
_PATIENCE_SECONDS = 1.0
_COUNT_EVERY_SECONDS = 300.0
_COUNT_OFTEN_SECONDS = 30.0
_COUNT_AT_ONCE_SECONDS = 3.0
_MUCH_BYTES = 2**20
_COUNT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class HomeLook:
    """This server's home."""

    state: str
    """ok, nearly_full or full."""
    used_bytes: int | None
    limit_bytes: int | None
    free_bytes: int
    largest: tuple[Item, ...] | None
    """What takes most space; None while there is room, or while it is being looked for."""


@dataclass(frozen=True, slots=True)
class _Counted:
    used_bytes: int | None = None
    largest: tuple[Item, ...] | None = None
    at: float = float("-inf")
    free_bytes: int = 0
    """What the disk had then."""


class HomeWatch:
    """Looks at a home when somebody asks, and counts what is in it now and then.

    Parameters
    ----------
    home
        The folder.
    quota
        What the hub says of the limit; see `QUOTA_VARIABLE`.
    clock
        Seconds.
    """

    def __init__(self, home: str, quota: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._quota_bytes = int(quota) if quota.isdigit() else None
        self._own_limit = quota == FILE_SYSTEM
        self._clock = clock
        self._looks = Patience("home", 2)
        self._counts = Patience("count home", 1)
        self._counted = _Counted()
        self._counting: asyncio.Task[None] | None = None
        self._latest: HomeLook | None = None

    async def look(self) -> HomeLook | None:
        """Return how it is now, or what was known last where the disk takes longer than a second."""
        try:
            disk = await self._looks.call(_PATIENCE_SECONDS, space.disk_of, self._home)
        except (Silent, OSError) as error:
            log.warning("The home %s does not answer: %s", self._home, error)
            return self._latest
        before = self._room(disk)
        await self._count_if_due(before.state, disk.free_bytes)
        room = self._room(disk)
        largest = None if room.state is State.OK else self._counted.largest
        self._latest = HomeLook(room.state, room.used_bytes, room.limit_bytes, room.free_bytes, largest)
        return self._latest

    def _room(self, disk: space.Disk) -> space.Room:
        return space.room(
            disk, used_bytes=self._counted.used_bytes, quota_bytes=self._quota_bytes, own_limit=self._own_limit
        )

    async def _count_if_due(self, state: State, free_bytes: int) -> None:
        """Begin to count where the last count is old; wait a moment for it, since most homes are small."""
        if state is State.OK and self._quota_bytes is None:
            return
        every = _COUNT_EVERY_SECONDS if state is State.OK else _COUNT_OFTEN_SECONDS
        if state is not State.OK and abs(free_bytes - self._counted.free_bytes) >= _MUCH_BYTES:
            every = _COUNT_AT_ONCE_SECONDS  # something large was deleted or written, so the list is wrong
        if self._counting is None and self._clock() - self._counted.at >= every:
            self._counting = asyncio.create_task(self._count())
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=_PATIENCE_SECONDS)

    async def _count(self) -> None:
        try:
            self._counted = await self._counts.call(2 * _COUNT_SECONDS, self._count_now)
        except (Silent, OSError) as error:
            log.warning("The home %s cannot be measured: %s", self._home, error)
        finally:
            self._counting = None

    def _count_now(self) -> _Counted:
        used = self._counted.used_bytes
        if self._quota_bytes is not None:
            used = space.count_used(self._home, _COUNT_SECONDS) or used
        disk = space.disk_of(self._home)
        there = space.room(disk, used_bytes=used, quota_bytes=self._quota_bytes, own_limit=self._own_limit)
        largest = None if there.state is State.OK else space.find_largest(self._home, _COUNT_SECONDS)
        return _Counted(used, largest, self._clock(), disk.free_bytes)

    async def delete(self, path: str) -> None:
        """Delete one of the largest: a file, or a folder of rubbish.

        Raises
        ------
        ValueError
            It is none of these.
        OSError
            It cannot be deleted.
        """
        parts = path.split("/")
        if not path or {"", ".", ".."} & set(parts):
            raise ValueError("This is no file in your home.")
        delete: Callable[[Path], None] = shutil.rmtree if path in RUBBISH else os.unlink
        await asyncio.to_thread(delete, Path(self._home, *parts))
        self._counted = _Counted(self._counted.used_bytes, None)  # counted anew at the next look


def for_environment(environment: Mapping[str, str]) -> HomeWatch:
    """Return the watch of the home of a server with this environment."""
    return HomeWatch(environment.get("HOME", "/"), environment.get(QUOTA_VARIABLE, ""))
