"""What of a home is kept, and whether a kept file is still the same."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from idl_hub.homes import safe
from idl_hub.homes.space import EARLIER_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SNAPSHOTS_IN_HOME = EARLIER_VERSIONS
"""Where a student sees their earlier versions."""
RESTORING = ".idl_hub-restoring-"
"""How the name of a file begins that is being brought back."""
DEEPEST = 100
"""Folders within folders; what lies deeper is not kept. Each level holds some descriptors open."""
LEFT_OUT = {(SNAPSHOTS_IN_HOME,), (".cache",), (".local", "share", "Trash")}
"""Folders of a home that are not kept: what programs can fetch or make again, and what was thrown away."""
_LEFT_OUT_ANYWHERE = {"__pycache__"}
_CACHE_TAG = "CACHEDIR.TAG"
_CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
"""Of the Cache Directory Tagging Specification: pip, pytest, cargo and others mark their caches so."""


class TooMuchError(Exception):
    """More entries, bytes or time than were meant to be spent."""

    def __init__(self, message: str, *, is_size: bool = False) -> None:
        super().__init__(message)
        self.is_size = is_size


class Budget:
    """How much a walk through a tree may take, so that no tree holds others up.

    Parameters
    ----------
    seconds
        From now on.
    entries, size_bytes
        None: any number.
    """

    def __init__(
        self,
        seconds: float,
        entries: int | None = None,
        size_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._ends_at = clock() + seconds
        self._entries = entries
        self._size_bytes = size_bytes

    def spend(self, entries: int = 0, size_bytes: int = 0) -> None:
        """Take it off.

        Raises
        ------
        TooMuchError
            When it was not there.
        """
        if self._clock() > self._ends_at:
            raise TooMuchError("it takes too long")
        if self._entries is not None:
            self._entries -= entries
            if self._entries < 0:
                raise TooMuchError("these are too many files")
        if self._size_bytes is not None:
            self._size_bytes -= size_bytes
            if self._size_bytes < 0:
                raise TooMuchError("it is too large", is_size=True)


def entries(folder: int, parts: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield name and state of everything in a folder that is kept: files, folders and links.

    Pipes, sockets, devices and caches are left out; so is what goes away meanwhile.

    Parameters
    ----------
    parts
        Where the folder lies in its home.
    """
    if len(parts) >= DEEPEST:
        return
    for name in os.listdir(folder):
        if name in _LEFT_OUT_ANYWHERE or (*parts, name) in LEFT_OUT or name.startswith(RESTORING):
            continue
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        kind = stat.S_IFMT(found.st_mode)
        if kind in {stat.S_IFREG, stat.S_IFLNK} or (kind == stat.S_IFDIR and not _is_cache(folder, name)):
            yield name, found


def kept_mode(found: os.stat_result) -> int:
    """Return the mode that a copy has: no rights of others, and a folder that its owner can look into."""
    mode = found.st_mode & 0o1777
    return mode | 0o700 if stat.S_ISDIR(found.st_mode) else mode


def same(name: str, folder: int, found: os.stat_result, kept_in: int) -> bool:
    """Whether a file or link is as its copy of the same name: kind, size, time of change and mode, or target."""
    try:
        copy = os.stat(name, dir_fd=kept_in, follow_symlinks=False)
        if stat.S_IFMT(copy.st_mode) != stat.S_IFMT(found.st_mode):
            return False
        if stat.S_ISLNK(found.st_mode):
            return os.readlink(name, dir_fd=folder) == os.readlink(name, dir_fd=kept_in)
    except FileNotFoundError:
        return False
    return (copy.st_size, copy.st_mtime_ns, copy.st_mode & 0o1777) == (
        found.st_size,
        found.st_mtime_ns,
        kept_mode(found),
    )


def same_tree(home: int, copy: int, budget: Budget, parts: tuple[str, ...] = ()) -> bool:
    """Whether a copy holds all of a home that is kept, and nothing else."""
    left = set(os.listdir(copy))
    for name, found in entries(home, parts):
        budget.spend(entries=1)
        if name not in left:
            return False
        left.discard(name)
        if not stat.S_ISDIR(found.st_mode):
            if not same(name, home, found, copy):
                return False
            continue
        try:
            with (
                safe.held(safe.open_folder(home, (name,))) as below,
                safe.held(safe.open_folder(copy, (name,))) as kept,
            ):
                if os.fstat(kept).st_mode & 0o1777 != kept_mode(found):
                    return False
                if not same_tree(below, kept, budget, (*parts, name)):
                    return False
        except (FileNotFoundError, NotADirectoryError):
            return False
    return not left


def _is_cache(folder: int, name: str) -> bool:
    with suppress(OSError), safe.held(safe.open_file(folder, (name, _CACHE_TAG))) as tag:
        return os.read(tag, len(_CACHE_SIGNATURE)) == _CACHE_SIGNATURE
    return False
