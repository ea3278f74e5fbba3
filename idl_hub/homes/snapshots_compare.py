"""What is in a copy, and how the home of today differs from it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from idl_hub.homes import safe
from idl_hub.homes.snapshots_tree import Budget, TooMuchError, same

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_ENTRIES = 2000
_MOST_DIFFERENCES = 200
_MOST_LOOKED_AT = 50_000
_LOOK_SECONDS = 5.0


class Now(StrEnum):
    """How it is in the home of today."""

    SAME = "same"
    CHANGED = "changed"
    """Something of this name is there, and it is different."""
    GONE = "gone"
    THERE = "there"
    """A folder, which is there; what is in it was not looked at."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or link in a copy."""

    path: tuple[str, ...]
    kind: str
    """``file``, ``folder`` or ``link``."""
    size_bytes: int
    modified_at: float
    now: Now


@dataclass(frozen=True, slots=True)
class Listing:
    """Entries, all of them unless `complete` says otherwise."""

    entries: tuple[Entry, ...]
    complete: bool


def folder(copy: int, home: int, path: tuple[str, ...]) -> Listing:
    """Return what is in a folder of a copy, folders first, as `OSError` says when there is no such folder."""
    with safe.held(safe.open_folder(copy, path)) as kept:
        names = _names(kept)
        present = _open(home, path)
        try:
            found = [_entry(name, kept, present, path) for name in names[:_MOST_ENTRIES]]
        finally:
            if present is not None:
                os.close(present)
    found.sort(key=lambda entry: (entry.kind != "folder", entry.path[-1].lower()))
    return Listing(tuple(found), complete=len(names) <= _MOST_ENTRIES)


def differences(copy: int, home: int, *, hidden: bool = False, seconds: float = _LOOK_SECONDS) -> Listing:
    """Return what a copy holds that is gone from the home or different in it.

    Of a folder that is gone only the folder is named. What is only in the home is none of these: nothing of it is lost.

    Parameters
    ----------
    hidden
        Whether names that begin with a dot count.
    seconds
        After so long it is told what was found so far.
    """
    found: list[Entry] = []
    try:
        for entry in _differences(copy, home, (), Budget(seconds, entries=_MOST_LOOKED_AT), hidden):
            found.append(entry)
            if len(found) >= _MOST_DIFFERENCES:
                return Listing(tuple(found), complete=False)
    except TooMuchError:
        return Listing(tuple(found), complete=False)
    return Listing(tuple(found), complete=True)


def _differences(copy: int, home: int, path: tuple[str, ...], budget: Budget, hidden: bool) -> Iterator[Entry]:
    for name in _names(copy):
        if name.startswith(".") and not hidden:
            continue
        budget.spend(entries=1)
        entry = _entry(name, copy, home, path)
        if entry.now in {Now.GONE, Now.CHANGED}:
            yield entry
        elif entry.kind == "folder":
            present = _open(home, (name,))
            if present is None:
                continue  # gone this very moment; the next look says so
            with safe.held(present), safe.held(safe.open_folder(copy, (name,))) as kept:
                yield from _differences(kept, present, entry.path, budget, hidden)


def _entry(name: str, copy: int, home: int | None, path: tuple[str, ...]) -> Entry:
    kept = os.stat(name, dir_fd=copy, follow_symlinks=False)
    kind = {stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}.get(stat.S_IFMT(kept.st_mode), "file")
    size_bytes = 0 if kind == "folder" else kept.st_size
    return Entry((*path, name), kind, size_bytes, kept.st_mtime, _now(name, kept, copy, home))


def _now(name: str, kept: os.stat_result, copy: int, home: int | None) -> Now:
    if home is None:
        return Now.GONE
    try:
        present = os.stat(name, dir_fd=home, follow_symlinks=False)
    except FileNotFoundError:
        return Now.GONE
    if stat.S_IFMT(present.st_mode) != stat.S_IFMT(kept.st_mode):
        return Now.CHANGED
    if stat.S_ISDIR(kept.st_mode):
        return Now.THERE
    return Now.SAME if same(name, home, present, copy) else Now.CHANGED


def _open(home: int, path: tuple[str, ...]) -> int | None:
    try:
        return safe.open_folder(home, path)
    except OSError:
        return None


def _names(folder: int) -> list[str]:
    return sorted(os.listdir(folder))
