"""`Homes`: a student's home is there, with the right owner, before their server starts."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from idl_hub.homes import safe, space
from idl_hub.homes.patience import Patience, Silent
from idl_hub.homes.snapshots_folder import SnapshotFolders

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from idl_hub.homes.space import Room, State
    from idl_hub.settings_servers import HomeSettings

log = logging.getLogger("idl_hub.homes")

MARKER = ".idl_hub-homes"
"""A file in the folder of all homes. The folder below a file system that is not mounted has none."""
_CALL_SECONDS = 8.0
_PROBE_SECONDS = 5.0
_COUNT_WAIT_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_COUNT_SECONDS = 900.0
_COUNTED_IS_FRESH_SECONDS = 10.0
_OWN_LIMIT_RATIO = 0.98
_CALLS_AT_ONCE = 16
_COUNTS_AT_ONCE = 4


Told = TypeVar("Told")


class HomesError(Exception):
    """No home, and so no server; the message is for the student, and names the cause for the admin.

    Attributes
    ----------
    cause
        The cause alone, for who looks after the homes.
    """

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause or message


@dataclass(frozen=True, slots=True)
class Home:
    """A student's home as it is before a start."""

    account: str
    path: Path
    used_bytes: int | None
    """None: not known yet, or nobody limits it."""
    quota_bytes: int | None
    free_bytes: int
    state: State
    own_limit: bool = False
    """Whether the file system itself keeps the student within the quota."""
    earlier_versions: bool = False
    """Whether there is a folder of earlier versions to mount."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one call to the file system told."""

    disk: space.Disk
    own_limit: bool
    refused: str = ""


class Homes:
    """The folder of all homes. One per hub.

    Parameters
    ----------
    settings
        With a `directory`.
    call_seconds
        Longest time one look at the file system may take.
    clock
        Seconds; where the age of what was counted comes from.
    """

    def __init__(
        self,
        settings: HomeSettings,
        *,
        call_seconds: float = _CALL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if settings.directory is None:
            raise ValueError("There is no folder of homes in the settings.")
        self.directory = settings.directory
        self.quota_bytes = settings.quota
        self._owner = safe.Owner(settings.uid, settings.gid)
        self._rights = self._owner if os.geteuid() == 0 else None
        self._call_seconds = call_seconds
        self._clock = clock
        self._calls = Patience("homes", _CALLS_AT_ONCE)
        self._counts = Patience("count homes", _COUNTS_AT_ONCE)
        self._snapshot_folders = SnapshotFolders(settings)
        self._counting: dict[str, asyncio.Task[None]] = {}
        self._counted: dict[str, tuple[int, float]] = {}

    async def prepare(self, account: str) -> Home:
        """Make the home where it is missing, and say how much room there is in it.

        Raises
        ------
        HomesError
            The homes are not mounted or do not answer, or this one cannot be used.
        """
        found = await self._ask(self._call_seconds, self._prepare, account)
        home = await self._measure(account, found, _COUNT_WAIT_SECONDS)
        return replace(home, earlier_versions=await self._snapshot_folders.prepare(account))

    async def look(self, account: str) -> Home | None:
        """Return a home as it is, for a page; None when there is none yet or it does not answer at once."""
        try:
            found = await self._ask(_LOOK_SECONDS, self._look, account)
        except HomesError as error:
            log.warning("%s", error)
            return None
        return None if found is None else await self._measure(account, found, _LOOK_SECONDS)

    async def _ask(self, seconds: float, function: Callable[[str], Told], account: str) -> Told:
        try:
            return await self._calls.call(seconds, function, account)
        except (Silent, TimeoutError):
            log.error("%s does not answer; %d calls wait for it", self.directory, self._calls.under_way)  # noqa: TRY400
            raise HomesError(_silent(self.directory)) from None
        except safe.PathError as error:
            raise HomesError(f"{error} No server was started. Tell the course's admins.") from error
        except OSError as error:
            raise HomesError(self._unusable(account, f"{error.strerror or error}")) from error

    # -- in threads ---------------------------------------------------------------------------------

    def _prepare(self, account: str) -> _Found:
        with safe.held(open_homes(self.directory)) as homes:
            home = self._open_or_make(homes, account)
            with safe.held(home):
                self._give(home, account)
                return _found(homes, home, self._try_to_write(home))

    def _look(self, account: str) -> _Found | None:
        with safe.held(open_homes(self.directory)) as homes:
            try:
                home = safe.open_account(self.directory, account)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise HomesError(self._unusable(account, _why_not(error))) from error
            with safe.held(home):
                return _found(homes, home)

    def _open_or_make(self, homes: int, account: str) -> int:
        try:
            return safe.open_account(self.directory, account)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise HomesError(self._unusable(account, _why_not(error))) from error
        try:
            return safe.ensure_folder(homes, account, self._owner)
        except OSError as error:
            raise HomesError(self._unusable(account, f"it cannot be made ({error.strerror})")) from error

    def _give(self, home: int, account: str) -> None:
        """Give the folder to the student; what was cut off between making and giving is finished here."""
        now = os.fstat(home)
        unfinished = now.st_uid in (0, os.geteuid()) and now.st_uid != self._owner.uid
        if now.st_uid != self._owner.uid and not unfinished:
            raise HomesError(
                self._unusable(account, f"it belongs to user {now.st_uid} and not to user {self._owner.uid}")
            )
        try:
            if unfinished or now.st_gid != self._owner.gid:
                os.fchown(home, self._owner.uid, self._owner.gid)
            if stat.S_IMODE(now.st_mode) != 0o700:
                os.fchmod(home, 0o700)
        except OSError as error:
            raise HomesError(self._unusable(account, f"the hub may not change it ({error.strerror})")) from error

    def _try_to_write(self, home: int) -> str:
        name = f".idl_hub-probe-{secrets.token_hex(6)}"
        try:
            return space.try_to_write(f"/proc/self/fd/{home}", name, _PROBE_SECONDS, self._rights)
        finally:
            with suppress(OSError):
                os.unlink(name, dir_fd=home)

    def _unusable(self, account: str, why: str) -> str:
        return (
            f"Your home {self.directory / account} cannot be used: {why}. Nothing of yours is lost, and no server was "
            "started without it. Tell the course's admins; trying again will not help."
        )

    # -- how much room there is ---------------------------------------------------------------------

    async def _measure(self, account: str, found: _Found, seconds: float) -> Home:
        if found.refused and not space.is_full(found.refused):
            raise HomesError(self._unusable(account, f"it cannot be written to ({found.refused})"))
        used = None
        if self.quota_bytes is not None and not found.own_limit:
            used = await self._used(account, seconds)
        there: Room = space.room(
            found.disk,
            used_bytes=used,
            quota_bytes=self.quota_bytes,
            own_limit=found.own_limit,
            full=found.refused,
        )
        path = self.directory / account
        return Home(account, path, there.used_bytes, there.limit_bytes, there.free_bytes, there.state, found.own_limit)

    async def _used(self, account: str, seconds: float) -> int | None:
        """Return the space in use: counted now where that is quick, else as last known; the counting goes on."""
        counted = self._counted.get(account)
        if counted and self._clock() - counted[1] < _COUNTED_IS_FRESH_SECONDS and seconds <= _LOOK_SECONDS:
            return counted[0]
        task = self._counting.get(account)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._count(account))
            self._counting[account] = task
            task.add_done_callback(lambda _: self._counting.pop(account, None))
        await asyncio.wait([task], timeout=seconds)
        counted = self._counted.get(account)
        return counted[0] if counted else None

    async def _count(self, account: str) -> None:
        try:
            used = await self._counts.call(_COUNT_SECONDS, self._count_now, account)
        except (Silent, OSError) as error:
            log.warning("The home of %s cannot be measured: %s", account, error)
            return
        if used is not None:
            self._counted[account] = (used, self._clock())

    def _count_now(self, account: str) -> int | None:
        with safe.held(safe.open_account(self.directory, account)) as home:
            return space.count_used(f"/proc/self/fd/{home}", _COUNT_SECONDS, self._rights)


def open_homes(directory: Path) -> int:
    """Return the folder of all homes as a descriptor.

    Raises
    ------
    HomesError
        It is missing or does not hold the marker: what should be mounted there is not.
    """
    try:
        homes = safe.open_root(directory)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise _unreadable(directory, error.strerror) from error
        raise _missing(directory, error.strerror) from error
    try:
        marker = os.stat(MARKER, dir_fd=homes, follow_symlinks=False)
        if not stat.S_ISREG(marker.st_mode):
            raise FileNotFoundError(errno.ENOENT, "the marker is no file")
    except OSError as error:
        os.close(homes)
        if error.errno == errno.EACCES:
            raise _unreadable(directory, error.strerror) from error
        why = f"{MARKER} is missing in it" if error.errno == errno.ENOENT else error.strerror
        raise _missing(directory, why) from error
    return homes


def _found(homes: int, home: int, refused: str = "") -> _Found:
    disk, all_of_it = space.disk_of(home), space.disk_of(homes)
    # With a project quota the file system speaks of the home alone; so does one that is mounted for it alone.
    # Some (ZFS) change their total with every write, so a small difference means nothing.
    own_limit = disk.total_bytes < _OWN_LIMIT_RATIO * all_of_it.total_bytes
    return _Found(disk, own_limit, refused)


def _why_not(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "it is a link or a file, not a folder"
    return f"it cannot be opened ({error.strerror})"


def _missing(directory: Path, why: str | None) -> HomesError:
    return HomesError(
        f"The students' files are not there: {directory} is not mounted on the hub's machine ({why}). Your files are "
        "safe where they are, and no server was started without them. Tell the course's admins, and try again later.",
        f"{directory} is not mounted: {why}",
    )


def _unreadable(directory: Path, why: str | None) -> HomesError:
    return HomesError(
        f"The students' files cannot be read: the hub has no right to {directory} ({why}). Your files are safe where "
        "they are, and no server was started without them. Tell the course's admins; trying again will not help.",
        f"{directory} cannot be read by this user: {why}. Run the hub as root; export NFS with no_root_squash to its "
        "machine",
    )


def _silent(directory: Path) -> str:
    return (
        f"The students' files do not answer: the file server behind {directory} is slow or gone. Your files are safe "
        "where they are, and no server was started without them. Try again in a few minutes; if it stays so, tell "
        "the course's admins."
    )
