"""Ways below a folder that students write in, none of which leads out of it.

Every home has the same owner, and that owner may swap a folder for a symbolic link at any moment. So a path that was
checked proves nothing a moment later. Here each part of a path is opened relative to the folder before it, links are
never followed, and what was opened is what is used.

All functions raise `OSError` as the system does: `FileNotFoundError` where nothing is, `NotADirectoryError` or ELOOP
where a part is a link or no folder, `FileExistsError` where something is in the way.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idl_hub.db.accounts import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# A pipe that somebody put in the place of a file must not hold us up.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_LONGEST_NAME_BYTES = 255
_DEEPEST = 100


class PathError(ValueError):
    """A path that is none below a home; the message is for the person who gave it."""


class NotAFileError(OSError):
    """Something else than a regular file is in its place."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Numbers of the user and the group who own what is made."""

    uid: int
    gid: int


@contextmanager
def held(fd: int) -> Iterator[int]:
    """Close the descriptor at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def parts_of(path: str) -> tuple[str, ...]:
    """Return the parts of a relative path that a person gave; none for the folder itself.

    Raises
    ------
    PathError
        When it is absolute, leads upwards, or cannot be a path.
    """
    parts = tuple(path.split("/")) if path else ()
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise PathError("This is not the path of a file or folder in a home.")
    if len(parts) > _DEEPEST or any(len(os.fsencode(part)) > _LONGEST_NAME_BYTES for part in parts):
        raise PathError("This path is longer than any that is kept.")
    return parts


def open_root(root: Path) -> int:
    """Return the folder of all people; all but root may pass through it and not look around, and get just that."""
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return os.open(root, os.O_PATH | os.O_DIRECTORY)


def open_account(root: Path, account: str) -> int:
    """Return the folder of one person below the folder of all; `root` itself may be a link that an admin made.

    Raises
    ------
    PathError
        When no account can have this name.
    """
    if not re.fullmatch(NAME_PATTERN, account):
        raise PathError(f"{account!r} is not the name of an account.")
    with held(open_root(root)) as all_of_them:
        return os.open(account, _FOLDER, dir_fd=all_of_them)


def open_folder(base: int, parts: Sequence[str] = ()) -> int:
    """Return a folder below another one."""
    found = os.dup(base)
    for part in parts:
        with held(found):
            found = os.open(part, _FOLDER, dir_fd=found)
    return found


def open_file(base: int, parts: Sequence[str]) -> int:
    """Return a regular file below a folder, to be read."""
    *folders, name = parts
    with held(open_folder(base, folders)) as folder:
        found = os.open(name, _FILE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise NotAFileError(errno.EINVAL, "not a file", name)
    return found


def make_folder(parent: int, name: str, owner: Owner, mode: int = 0o700) -> int:
    """Make a folder, which must not be there yet, and return it."""
    os.mkdir(name, 0o700, dir_fd=parent)
    made = os.open(name, _FOLDER, dir_fd=parent)
    try:
        _give(made, owner, mode)
    except OSError:
        os.close(made)
        raise
    return made


def ensure_folder(parent: int, name: str, owner: Owner, mode: int = 0o700) -> int:
    """Return a folder, made where it is missing; what is there already is left as it is."""
    try:
        return make_folder(parent, name, owner, mode)
    except FileExistsError:
        return os.open(name, _FOLDER, dir_fd=parent)


def new_file(parent: int, name: str, owner: Owner, mode: int = 0o600) -> int:
    """Make a file, which must not be there yet, and return it to be written."""
    made = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
    try:
        _give(made, owner, mode)
    except OSError:
        os.close(made)
        raise
    return made


def _give(fd: int, owner: Owner, mode: int) -> None:
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != (owner.uid, owner.gid):
        os.fchown(fd, owner.uid, owner.gid)
    os.fchmod(fd, mode & 0o1777)  # a file of a student never takes on somebody else's rights
