"""The folder of all copies: ``{homes.snapshots}/{account}/{time}``, and how copies get into it and out again.

A student's container shows them their own folder and no other. A copy is made below ``.partial`` and moved when it is
whole, so what has the name of a copy is one.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from idl_hub.db.accounts import NAME_PATTERN
from idl_hub.homes import safe
from idl_hub.homes.snapshots_copy import Copier
from idl_hub.homes.snapshots_folder import SnapshotsError, open_snapshots
from idl_hub.homes.snapshots_kept import Snapshot, kept, mark, named, taken, words
from idl_hub.homes.snapshots_tree import Budget, TooMuchError, same_tree
from idl_hub.homes.store import HomesError, open_homes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from idl_hub.homes.snapshots_copy import Tally
    from idl_hub.settings import Settings
    from idl_hub.settings_servers import HomeSettings

log = logging.getLogger("idl_hub.homes")
_PARTIAL = ".partial"
_LOCK = ".lock"
_CHECKED = ".checked"
_HOME_SECONDS = 3600.0
"""A home that takes longer is given up, so that it does not hold up those after it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one home."""

    account: str
    snapshot: Snapshot | None = None
    """The new copy; None when there is none."""
    tally: Tally | None = None
    unchanged: bool = False
    """There is no new copy because it would be like the one before."""
    fault: str = ""
    """Why there is none, or what it lacks."""


class Snapshots:
    """The copies of all homes.

    Parameters
    ----------
    settings
        Those of the hub; `homes.snapshots` must be set.
    clock
        The time now, with a time zone.
    home_seconds
        How long one home may take.

    Raises
    ------
    SnapshotsError
        When the settings name no folder.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        home_seconds: float = _HOME_SECONDS,
    ) -> None:
        homes = settings.homes
        if homes.directory is None or homes.snapshots is None:
            raise SnapshotsError(
                "homes.directory and homes.snapshots are not both set, so no copies of homes are made. "
                "Set them to two folders, on two disks where you can."
            )
        self.directory: Path = homes.snapshots
        self.homes: Path = homes.directory
        self.owner = safe.Owner(homes.uid, homes.gid)
        self.zone = ZoneInfo(settings.quiet.time_zone)
        self.rules = {str(kind): number for kind, number in homes.snapshots_kept.items()}
        self._clock = clock
        self._home_seconds = home_seconds

    # -- reading ------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """Return the time now."""
        return self._clock()

    def words(self, at: datetime) -> str:
        """Return a time as a person says it now: ``Today 17:00``."""
        return words(at, self._clock(), self.zone)

    def mark(self, name: str) -> str:
        """Return when the copy of this name was taken, for the name of a file."""
        copy = named(name)
        return mark(copy.taken_at, self._clock(), self.zone) if copy else name

    def accounts(self) -> tuple[str, ...]:
        """Return whose copies there are."""
        with safe.held(self._open()) as folder:
            return _accounts_in(folder)

    def of(self, account: str) -> tuple[Snapshot, ...]:
        """Return the copies of one home, oldest first; none for somebody who has none.

        Raises
        ------
        SnapshotsError
            When the folder of all copies is missing.
        idl_hub.homes.safe.PathError
            When no account can have this name.
        """
        with safe.held(self._open()):
            try:
                with safe.held(safe.open_account(self.directory, account)) as own:
                    return _snapshots_in(own)
            except FileNotFoundError:
                return ()

    def open(self, account: str, name: str) -> int:
        """Return the folder of one copy; `FileNotFoundError` when there is none of this name."""
        if named(name) is None:
            raise FileNotFoundError(name)
        with safe.held(safe.open_account(self.directory, account)) as own:
            return safe.open_folder(own, (name,))

    def checked_at(self, account: str = "") -> datetime | None:
        """Return when a home was last copied or found unchanged; without a name, when this was last tried for all."""
        parts = (account, _CHECKED) if account else (_CHECKED,)
        try:
            with safe.held(self._open()) as folder, safe.held(safe.open_file(folder, parts)) as file:
                return datetime.fromtimestamp(os.fstat(file).st_mtime, UTC)
        except OSError:
            return None

    # -- taking and pruning -------------------------------------------------------------------------

    def take(self, accounts: tuple[str, ...] = ()) -> Iterator[Outcome]:
        """Copy the homes of these people, or of all, one after the other; then drop what is kept no longer.

        Raises
        ------
        SnapshotsError
            When homes or copies are not there, or another run is at work.
        """
        with self._alone() as folder:
            every = self._homes()
            unknown = sorted(set(accounts) - set(every))
            if unknown:
                raise SnapshotsError(f"There is no home of {', '.join(unknown)} in {self.homes}. Nothing was copied.")
            for account in accounts or every:
                yield self._take_safely(folder, account)
                self._prune(folder, account)
            if not accounts:
                self._note_checked(folder)

    def prune(self) -> tuple[Snapshot, ...]:
        """Drop what the settings keep no longer, and return it; raises as `take` does."""
        with self._alone() as folder:
            return tuple(gone for account in _accounts_in(folder) for gone in self._prune(folder, account))

    def _open(self) -> int:
        return open_snapshots(self.directory)

    def _homes(self) -> tuple[str, ...]:
        try:
            with safe.held(open_homes(self.homes)) as homes:
                return _accounts_in(homes)
        except HomesError as error:
            raise SnapshotsError(f"{error.cause}. Nothing was copied, and no copy was dropped.") from error

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Hold the lock, with nothing left of a run that was cut off."""
        with safe.held(self._open()) as folder:
            try:
                lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=folder)
            except OSError as error:
                raise SnapshotsError(f"{self.directory} cannot be written to ({error.strerror}).") from error
            with safe.held(lock):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise SnapshotsError(
                        f"Another `idl-hub snapshots` is at work in {self.directory}. Nothing was done; "
                        "try again later."
                    ) from None
                _clear(folder)
                try:
                    yield folder
                finally:
                    _clear(folder)

    def _take_safely(self, folder: int, account: str) -> Outcome:
        try:
            return self._take(folder, account)
        except TooMuchError:
            why = f"copying takes more than {self._home_seconds / 60:.0f} minutes"
        except OSError as error:
            why = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
        finally:
            _clear(folder)
        return Outcome(account, fault=f"{why}; its earlier copies stay")

    def _take(self, folder: int, account: str) -> Outcome:
        budget = Budget(self._home_seconds)
        with (
            safe.held(safe.open_account(self.homes, account)) as home,
            safe.held(safe.ensure_folder(folder, account, self.owner)) as own,
        ):
            earlier = _snapshots_in(own)
            snapshot = taken(self._clock(), self.zone)
            with _last(own, earlier) as before:
                if before is not None and same_tree(home, before, budget):
                    self._note_checked(own)
                    return Outcome(account, unchanged=True)
                if snapshot in earlier:
                    return Outcome(account, fault=f"there is a copy of this minute already, {snapshot.name}")
                tally = _copy(folder, home, before, budget)
            _move(folder, own, account, snapshot)
            self._note_checked(own)
        missing = f"without {tally.fault_count} that cannot be read: {'; '.join(tally.faults)}"
        return Outcome(account, snapshot, tally, fault=missing if tally.fault_count else "")

    def _prune(self, folder: int, account: str) -> tuple[Snapshot, ...]:
        try:
            with safe.held(safe.open_account(self.directory, account)) as own:
                every = _snapshots_in(own)
                stay = kept(every, self.rules, self.zone)
                gone = tuple(one for one in every if one not in stay)
                for one in gone:
                    # Moved first: a copy of which a part is gone already must not look like one.
                    os.rename(one.name, f"{_PARTIAL}/{account}-{one.name}", src_dir_fd=own, dst_dir_fd=folder)
        except FileNotFoundError:
            return ()
        if gone:
            _clear(folder)
        return gone

    def _note_checked(self, folder: int) -> None:
        now = self._clock().timestamp()
        with safe.held(os.open(_CHECKED, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644, dir_fd=folder)) as file:
            os.utime(file, (now, now))


def kept_by(homes: HomeSettings) -> bool:
    """Whether earlier versions of homes are kept at all."""
    return homes.directory is not None and homes.snapshots is not None


def _accounts_in(folder: int) -> tuple[str, ...]:
    names = (name for name in os.listdir(folder) if re.fullmatch(NAME_PATTERN, name))
    return tuple(sorted(names))


def _snapshots_in(own: int) -> tuple[Snapshot, ...]:
    return tuple(sorted(found for name in os.listdir(own) if (found := named(name))))


@contextmanager
def _last(own: int, earlier: tuple[Snapshot, ...]) -> Iterator[int | None]:
    if not earlier:
        yield None
        return
    with safe.held(safe.open_folder(own, (earlier[-1].name,))) as before:
        yield before


def _copy(folder: int, home: int, before: int | None, budget: Budget) -> Tally:
    with safe.held(safe.open_folder(folder, (_PARTIAL,))) as partial:
        for name in ("copy", "links"):
            os.mkdir(name, 0o700, dir_fd=partial)
        with (
            safe.held(safe.open_folder(partial, ("copy",))) as copy,
            safe.held(safe.open_folder(partial, ("links",))) as links,
        ):
            copier = Copier(budget, links=links)
            copier.tree(home, copy, before)
            # On the disk before it has its name: after a power cut it is whole, or it is not there.
            if ctypes.CDLL(None, use_errno=True).syncfs(copy) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return copier.tally


def _move(folder: int, own: int, account: str, snapshot: Snapshot) -> None:
    os.rename(f"{_PARTIAL}/copy", snapshot.name, src_dir_fd=folder, dst_dir_fd=own)
    log.info("%s: copied as %s", account, snapshot.name)


def _clear(folder: int) -> None:
    """Leave an empty folder for what is not whole yet."""
    with suppress(FileNotFoundError):
        shutil.rmtree(_PARTIAL, dir_fd=folder)
    os.mkdir(_PARTIAL, 0o700, dir_fd=folder)
