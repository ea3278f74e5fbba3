"""Brings a file or folder of a copy back into the home, and never overwrites anything there."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idl_hub.homes import safe
from idl_hub.homes.snapshots_copy import Copier
from idl_hub.homes.snapshots_tree import RESTORING, Budget, TooMuchError, kept_mode, same

if TYPE_CHECKING:
    from idl_hub.homes.safe import Owner
    from idl_hub.homes.snapshots import Snapshots
    from idl_hub.homes.snapshots_copy import Tally

_MOST_ENTRIES = 20_000
_MOST_BYTES = 10 * 2**30
_LONGEST_SECONDS = 300.0
_LONGEST_NAME_BYTES = 255
_MOST_BESIDE = 100
_FULL = {errno.ENOSPC, errno.EDQUOT}


GONE = "This earlier version is not there any more: of older ones only some are kept. Load the page again."


class RestoreError(Exception):
    """Nothing was brought back; the message is for the person who asked."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was brought back."""

    path: tuple[str, ...]
    """Where it is now."""
    beside: bool
    """Whether it got another name, because something of its own name is there."""
    entries: int
    """Files, folders and links; 0 when nothing was done, since it is there unchanged."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that is brought back at once."""

    entries: int = _MOST_ENTRIES
    size_bytes: int = _MOST_BYTES
    seconds: float = _LONGEST_SECONDS
    free_bytes: int | None = None
    """Space that is left in the home; None: not known, so the disk says it."""


def bring_back(
    snapshots: Snapshots, account: str, name: str, path: tuple[str, ...], bounds: Bounds | None = None
) -> Restored:
    """Bring back a file or folder from the copy of this name into somebody's home.

    Raises
    ------
    RestoreError
        When it could not be done; the home is as it was.
    """
    with ExitStack() as held:
        try:
            copy = held.enter_context(safe.held(snapshots.open(account, name)))
        except OSError as error:
            raise RestoreError(GONE) from error
        try:
            home = held.enter_context(safe.held(safe.open_account(snapshots.homes, account)))
        except OSError as error:
            raise RestoreError(
                "There is no home to bring it back to. Start the server once, which makes it; then try again."
            ) from error
        mark = snapshots.mark(name)
        return restore(copy, home, path, mark, snapshots.owner, bounds)


def restore(
    copy: int, home: int, path: tuple[str, ...], mark: str, owner: Owner, bounds: Bounds | None = None
) -> Restored:
    """Bring back what lies at this path in a copy.

    It gets its own name where nothing of this name is there any more (folders on the way are made again), else a name
    beside it with `mark`: ``notebook (from Sunday 17.40).ipynb``. It appears when it is whole.

    Parameters
    ----------
    copy, home
        Folders by descriptor.
    mark
        When the copy was taken.
    owner
        Who owns what is made.

    Raises
    ------
    RestoreError
        When it could not be done; the home is as it was.
    """
    bounds = bounds or Bounds()
    if not path:
        raise RestoreError("Choose a file or a folder; a whole home is not brought back at once.")
    with ExitStack() as held:
        try:
            kept_in = held.enter_context(safe.held(safe.open_folder(copy, path[:-1])))
            found = os.stat(path[-1], dir_fd=kept_in, follow_symlinks=False)
        except OSError as error:
            raise RestoreError(
                f"{_shown(path[-1])} is not in this earlier version (any more). Load the page again."
            ) from error
        made: list[tuple[int, str]] = []
        try:
            present = _folders(copy, home, path[:-1], owner, held, made)
            return _bring(path, found, kept_in, present, mark, owner, bounds)
        except (OSError, TooMuchError) as error:
            for folder, name in reversed(made):
                with suppress(OSError):
                    os.rmdir(name, dir_fd=folder)
            raise RestoreError(_why(error, path, bounds)) from error


def _folders(
    copy: int, home: int, path: tuple[str, ...], owner: Owner, held: ExitStack, made: list[tuple[int, str]]
) -> int:
    """Return the folder of the home that something belongs into, made again where it is gone."""
    present, kept = home, copy
    for name in path:
        kept = held.enter_context(safe.held(safe.open_folder(kept, (name,))))
        try:
            below = safe.open_folder(present, (name,))
        except FileNotFoundError:
            below = safe.make_folder(present, name, owner, kept_mode(os.fstat(kept)))
            made.append((present, name))
        present = held.enter_context(safe.held(below))
    return present


def _bring(
    path: tuple[str, ...],
    found: os.stat_result,
    kept_in: int,
    present: int,
    mark: str,
    owner: Owner,
    bounds: Bounds,
) -> Restored:
    name = path[-1]
    if not stat.S_ISDIR(found.st_mode) and same(name, kept_in, found, present):
        return Restored(path, beside=False, entries=0, size_bytes=0)
    most_bytes = bounds.size_bytes if bounds.free_bytes is None else min(bounds.size_bytes, bounds.free_bytes)
    copier = Copier(Budget(bounds.seconds, bounds.entries, most_bytes), owner=owner)
    unfinished = f"{RESTORING}{secrets.token_hex(6)}"
    try:
        copier.entry(name, found, kept_in, present, parts=path[:-1], new_name=unfinished)
        _be_whole(copier.tally)
        placed = _place(present, unfinished, name, mark, is_folder=stat.S_ISDIR(found.st_mode))
    except BaseException:
        _remove(present, unfinished)
        raise
    return Restored((*path[:-1], placed), placed != name, copier.tally.entries, copier.tally.copied_bytes)


def _be_whole(tally: Tally) -> None:
    if tally.fault_count:
        raise OSError(errno.EIO, f"it cannot be read: {tally.faults[0]}")


def _place(present: int, unfinished: str, name: str, mark: str, *, is_folder: bool) -> str:
    """Give what was brought back the first name that is free, and return that."""
    for number in range(_MOST_BESIDE):
        wanted = name if number == 0 else beside(name, mark, number, is_folder=is_folder)
        try:
            if not is_folder:
                # A further name fails where one is taken; renaming would overwrite it.
                os.link(unfinished, wanted, src_dir_fd=present, dst_dir_fd=present, follow_symlinks=False)
                os.unlink(unfinished, dir_fd=present)
            elif _exists(present, wanted):
                continue
            else:
                os.rename(unfinished, wanted, src_dir_fd=present, dst_dir_fd=present)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            continue
        return wanted
    raise FileExistsError(errno.EEXIST, "there are too many versions beside it already")


def beside(name: str, mark: str, number: int, *, is_folder: bool = False) -> str:
    """Return the name of an earlier version beside the one of today."""
    stem, dot, ending = (name, "", "") if is_folder else name.rpartition(".")
    if not stem:  # no dot, or nothing but one at the beginning
        stem, dot, ending = name, "", ""
    again = f" {number}" if number > 1 else ""
    tail = f" (from {mark}){again}{dot}{ending}"
    room = max(1, _LONGEST_NAME_BYTES - len(os.fsencode(tail)))
    return _cut(stem, room) + tail if len(os.fsencode(tail)) < _LONGEST_NAME_BYTES else _cut(name, room) + again


def _cut(text: str, size_bytes: int) -> str:
    """Return as much of a name as fits, no character halved."""
    while len(os.fsencode(text)) > size_bytes:
        text = text[:-1]
    return text


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove(folder: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)
        return
    with suppress(OSError):
        shutil.rmtree(name, dir_fd=folder)


def _why(error: Exception, path: tuple[str, ...], bounds: Bounds) -> str:
    name = _shown(path[-1])
    nothing = "Nothing was changed."
    full = f"There is not enough space in your home for {name}. {nothing} Delete what you do not need, then try again."
    if isinstance(error, TooMuchError):
        if bounds.free_bytes is not None and bounds.free_bytes < bounds.size_bytes and error.is_size:
            return full
        return (
            f"{name} is too much for this page: {error}. {nothing} Bring it back piece by piece, or in a terminal of "
            "JupyterLab with `cp -a` from the folder .snapshots in your home."
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return full
    if isinstance(error, NotADirectoryError) or (isinstance(error, OSError) and error.errno == errno.ELOOP):
        return (
            f"Where the folder of {name} was, there is something else now. {nothing} Rename that in JupyterLab, then "
            "try again."
        )
    reason = getattr(error, "strerror", None) or str(error)
    return (
        f"{name} could not be brought back ({reason}). {nothing} Try again; if it stays so, tell the course's admins."
    )


def _shown(name: str) -> str:
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in name)
