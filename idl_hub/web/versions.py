"""Earlier versions of one's own home: looked at, downloaded, brought back. Nobody sees those of others."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from io import FileIO
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import quote, quote_from_bytes

from idl_hub.db.accounts import NAME_PATTERN
from idl_hub.homes import safe, snapshots_compare
from idl_hub.homes.patience import Patience, Silent
from idl_hub.homes.restore import GONE, Bounds, RestoreError, bring_back
from idl_hub.homes.snapshots import Snapshots, kept_by
from idl_hub.homes.snapshots_folder import SnapshotsError
from idl_hub.homes.store import Homes
from idl_hub.web.api import API
from idl_hub.web.base import Page, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from idl_hub.homes.restore import Restored
    from idl_hub.homes.snapshots_compare import Entry, Listing
    from idl_hub.settings import Settings

log = logging.getLogger("idl_hub.web")
Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")
_LOOK_SECONDS = 15.0
_RESTORE_SECONDS = 330.0
_LOOKS_AT_ONCE = 8
_RESTORES_AT_ONCE = 4
_DOWNLOADS_AT_ONCE = 4
"""Of one person: each holds a file and a part of it in memory, for as long as the browser likes."""
_CHUNK_BYTES = 2**20
_CHUNK_SECONDS = 60.0
"""Longest time a browser may take for one part; none that somebody waits at is that slow."""
_LATE = timedelta(hours=2)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_NONE_KEPT = "This hub keeps no earlier versions of homes."
_AWAY = (
    "The disk of earlier versions does not answer right now. Nothing was changed, and your files are as they were. "
    "Try again in a few minutes; if it stays so, tell the course's admins."
)
_STILL = (
    "This takes longer than expected, and goes on: look into your home in a few minutes. What is being brought back "
    "shows when it is whole."
)
_MANY = "You download several files at this moment already. Wait until one of them is done, then try again."
_SLOW = "The browser stopped taking the file, so no more of it was sent. Download it again."
_AT_IT = "Something else of yours is being brought back at this moment. Wait until that is done, then try again."


class Versions:
    """What the requests share. One per process.

    Disks that do not answer cost some threads, and nobody else's requests.
    """

    def __init__(self, settings: Settings) -> None:
        self.snapshots = Snapshots(settings) if kept_by(settings.homes) else None
        self._homes = Homes(settings.homes) if self.snapshots else None
        self._looks = Patience("look at earlier versions", _LOOKS_AT_ONCE)
        self._restores = Patience("bring back earlier versions", _RESTORES_AT_ONCE)
        self._busy: set[str] = set()
        self._downloads: Counter[str] = Counter()
        self._lock = threading.Lock()

    async def look(self, function: Callable[Asked, Answer], *arguments: Asked.args, **named: Asked.kwargs) -> Answer:
        """Call a function that reads, in a thread; disks that are away become words."""
        try:
            return await self._looks.call(_LOOK_SECONDS, function, *arguments, **named)
        except Silent as error:
            raise Refusal(503, _AWAY) from error
        except SnapshotsError as error:
            log.warning("%s", error)
            raise Refusal(503, _AWAY) from error

    async def bring_back(self, snapshots: Snapshots, account: str, name: str, path: tuple[str, ...]) -> Restored:
        """Bring something back; only one thing at a time for each person."""
        home = await self._homes.look(account) if self._homes else None
        bounds = Bounds(free_bytes=home.free_bytes if home else None)

        def work() -> Restored:
            with self._one_at_a_time(account):
                return bring_back(snapshots, account, name, path, bounds)

        try:
            return await self._restores.call(_RESTORE_SECONDS, work)
        except Silent as error:
            raise Refusal(503, _STILL) from error
        except RestoreError as error:
            raise Refusal(409, str(error)) from error

    @contextmanager
    def download(self, account: str) -> Iterator[None]:
        """Count a download; refuse it where this person has enough of them under way."""
        if self._downloads[account] >= _DOWNLOADS_AT_ONCE:
            raise Refusal(429, _MANY)
        self._downloads[account] += 1
        try:
            yield
        finally:
            self._downloads -= Counter({account: 1})  # who has none left is forgotten

    @contextmanager
    def _one_at_a_time(self, account: str) -> Iterator[None]:
        """In the thread that works: what takes too long to be waited for keeps others out all the same."""
        with self._lock:
            if account in self._busy:
                raise Refusal(409, _AT_IT)
            self._busy.add(account)
        try:
            yield
        finally:
            self._busy.discard(account)


class VersionsPage(Page):
    """`GET versions`: everybody, about their own home."""

    async def get(self) -> None:
        """Render the frame; the values come through the API."""
        self.show("versions.html", here="versions", kept=kept_by(self.shared.homes))


class _Own(API):
    """A request about the home of the person who asks, and of nobody else: no request names an account."""

    @property
    def versions(self) -> Versions:
        found: Versions = self.application.settings["idl_hub_versions"]
        return found

    @property
    def snapshots(self) -> Snapshots:
        if self.versions.snapshots is None:
            raise Refusal(404, _NONE_KEPT)
        return self.versions.snapshots

    @property
    def account(self) -> str:
        """Whose home; people alone have one."""
        if self.visitor.kind != "user" or not re.fullmatch(NAME_PATTERN, self.visitor.name):
            raise Refusal(403, "Earlier versions are of people's homes: you may not ask for them as a service.")
        return self.visitor.name

    def path(self) -> tuple[str, ...]:
        """Return the parts of the path that was asked for; its bytes need not be text."""
        given = self.request.query_arguments.get("path", [b""])[-1]
        try:
            return safe.parts_of(os.fsdecode(given))
        except safe.PathError as error:
            raise Refusal(400, str(error)) from error

    def open(self, name: str, held: ExitStack) -> tuple[int, int]:
        """Return the copy of this name and the home; for a thread."""
        try:
            copy = held.enter_context(safe.held(self.snapshots.open(self.account, name)))
        except OSError as error:
            raise Refusal(404, GONE) from error
        try:
            home = held.enter_context(safe.held(safe.open_account(self.snapshots.homes, self.account)))
        except OSError as error:
            raise Refusal(404, "You have no home yet: it is made when your server starts.") from error
        return copy, home


class VersionList(_Own):
    """`GET api/versions`: everybody, of their own home."""

    async def get(self) -> None:
        """Return the times, newest first, and whether copies are made as they should be."""
        account = self.account
        if self.versions.snapshots is None:
            self.finish({"kept": False, "versions": [], "late": False, "checked": None, "next": None})
            return
        self.finish(await self.versions.look(_overview, self.snapshots, account))


class Differences(_Own):
    """`GET api/versions/NAME/differences`: everybody, of their own home."""

    async def get(self, name: str) -> None:
        """Return what is gone or changed since; `hidden=1` counts names that begin with a dot."""
        hidden = self.get_argument("hidden", "") == "1"

        def compare() -> Listing:
            with ExitStack() as held:
                copy, home = self.open(name, held)
                try:
                    return snapshots_compare.differences(copy, home, hidden=hidden)
                except FileNotFoundError as error:  # it was dropped while it was compared
                    raise Refusal(404, GONE) from error

        self.finish(_listing(await self.versions.look(compare), self.snapshots))


class Folder(_Own):
    """`GET api/versions/NAME/folder?path=…`: everybody, of their own home."""

    async def get(self, name: str) -> None:
        """Return what is in a folder of the copy."""
        path = self.path()

        def look() -> Listing:
            with ExitStack() as held:
                copy, home = self.open(name, held)
                try:
                    return snapshots_compare.folder(copy, home, path)
                except OSError as error:
                    raise Refusal(404, "There is no such folder in this earlier version.") from error

        self.finish(_listing(await self.versions.look(look), self.snapshots))


class File(_Own):
    """`GET api/versions/NAME/file?path=…`: everybody, of their own home."""

    async def get(self, name: str) -> None:
        """Send the file, to be stored and not to be shown: what is in it may be anything."""
        path = self.path()
        if not path:
            raise Refusal(400, "Which file? The address has no path.")

        def open_() -> tuple[FileIO, int]:
            with ExitStack() as held:
                copy, _ = self.open(name, held)
                try:
                    # Closes itself when it comes too late for anybody to take it.
                    file = FileIO(safe.open_file(copy, path))
                except OSError as error:
                    raise Refusal(404, "There is no such file in this earlier version.") from error
            return file, os.fstat(file.fileno()).st_size

        with self.versions.download(self.account):
            file, size_bytes = await self.versions.look(open_)
            with file:
                await self.send(file, size_bytes, path[-1])
        self.finish()

    async def send(self, file: FileIO, size_bytes: int, name: str) -> None:
        """Send a file in parts, and no more than a part ahead of the browser."""
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", str(size_bytes))
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")
        self.set_header("Content-Disposition", f"attachment; filename*=UTF-8''{quote(_shown(name), safe='')}")
        left = size_bytes
        while left > 0:
            chunk = await self.versions.look(file.read, min(left, _CHUNK_BYTES))
            if not chunk:
                break
            left -= len(chunk)
            self.write(chunk)
            try:
                async with asyncio.timeout(_CHUNK_SECONDS):
                    await self.flush()
            except TimeoutError as error:
                raise Refusal(408, _SLOW) from error


class Restore(_Own):
    """`POST api/versions/NAME/restore?path=…`: everybody, into their own home."""

    async def post(self, name: str) -> None:
        """Bring a file or folder back."""
        account, path = self.account, self.path()
        done = await self.versions.bring_back(self.snapshots, account, name, path)
        log.info("%s brought back %d files and folders from %s", account, done.entries, name)
        self.finish({"state": "done", "result": _result(done), **_place(done.path)})


def _overview(snapshots: Snapshots, account: str) -> dict[str, Any]:
    copies, now = snapshots.of(account), snapshots.now()
    checked = snapshots.checked_at(account) or snapshots.checked_at()
    return {
        "kept": True,
        "now": round(now.timestamp()),
        "checked": snapshots.words(checked) if checked else None,
        "late": checked is None or now - checked > _LATE,
        "next": f"{_full_hour_after(now).astimezone(snapshots.zone):%H:%M}",
        "versions": [
            {"name": copy.name, "taken_at": round(copy.taken_at.timestamp()), "words": snapshots.words(copy.taken_at)}
            for copy in reversed(copies)
        ],
    }


def _full_hour_after(now: datetime) -> datetime:
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


def _listing(listing: Listing, snapshots: Snapshots) -> dict[str, Any]:
    return {"entries": [_entry(entry, snapshots) for entry in listing.entries], "complete": listing.complete}


def _entry(entry: Entry, snapshots: Snapshots) -> dict[str, Any]:
    return _place(entry.path) | {
        "kind": entry.kind,
        "size_bytes": entry.size_bytes,
        "modified_at": round(entry.modified_at),
        "modified": snapshots.words(_moment(entry.modified_at)),
        "now": entry.now,
    }


def _moment(seconds: float) -> datetime:
    """Return the time of change of a file; who set it to something absurd gets the nearest that is a date."""
    return datetime.fromtimestamp(min(max(seconds, 0), _LATEST), UTC)


def _place(path: tuple[str, ...]) -> dict[str, str]:
    """Return where something is: for people, and as the value of `path` in an address, for names that are no text."""
    return {
        "name": _shown(path[-1]),
        "folder": "/".join(_shown(part) for part in path[:-1]),
        "path": quote_from_bytes(os.fsencode("/".join(path))),
    }


def _shown(name: str) -> str:
    """Return a name without what turns a line around, or breaks it."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in name)


def _result(done: Restored) -> str:
    name, folder = _shown(done.path[-1]), "/".join(_shown(part) for part in done.path[:-1])
    where = f"in {folder}" if folder else "in your home"
    if not done.entries:
        return f"{name} is {where}, unchanged; nothing was done."
    if done.beside:
        return f"The earlier version is beside the one of today, {where}: {name}"
    return f"{name} is back {where}."
