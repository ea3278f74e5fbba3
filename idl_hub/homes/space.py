"""How much of a home is used, by what, and what that means. Runs on the hub and in students' servers."""

from __future__ import annotations

import heapq
import os
import selectors
import subprocess
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from idl_hub.homes.safe import Owner

FULL_BELOW_BYTES = 16 * 2**20
"""With less than this a notebook and its checkpoint may not fit any more."""
NEARLY_FULL_RATIO = 0.1
NEARLY_FULL_BELOW_BYTES = 2**30
"""The same where no limit says how much a student may have."""
EARLIER_VERSIONS = ".snapshots"
"""Where a session shows earlier versions of the home. They are mounted there, read-only, and are not part of it."""
RUBBISH = (".cache", ".local/share/Trash")
"""Folders whose many small files count as one: nobody misses what is in them."""
SMALLEST_LISTED_BYTES = 2**20
_CHUNK_BYTES = 65536
_KILL_SECONDS = 1.0
_PROBE_BYTES = 65536


class State(StrEnum):
    """How a home is."""

    OK = "ok"
    NEARLY_FULL = "nearly_full"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Disk:
    """What a file system says of itself; one with project quotas says it of the home alone."""

    total_bytes: int
    free_bytes: int
    """For everybody but root."""
    out_of_files: bool = False
    """No further file can be made, whatever its size."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a student has and may use."""

    used_bytes: int | None
    """None: not known yet."""
    limit_bytes: int | None
    """None: only the disk ends."""
    free_bytes: int
    state: State


@dataclass(frozen=True, slots=True)
class Item:
    """A file, or one of the folders in `RUBBISH`, with the space it takes on disk."""

    path: str
    size_bytes: int
    is_folder: bool = False


def disk_of(folder: int | str) -> Disk:
    """Ask the file system of a folder, by path or descriptor."""
    told = os.statvfs(folder)
    out_of_files = told.f_files > 0 and told.f_favail == 0
    return Disk(told.f_blocks * told.f_frsize, told.f_bavail * told.f_frsize, out_of_files)


def room(
    disk: Disk,
    *,
    used_bytes: int | None = None,
    quota_bytes: int | None = None,
    own_limit: bool = False,
    full: str = "",
) -> Room:
    """Say what a student has.

    Parameters
    ----------
    used_bytes, quota_bytes
        As counted, and as the settings allow.
    own_limit
        Whether `disk` speaks of this home alone, because the file system keeps a limit for it.
    full
        What the file system said when it refused to write; empty when it did not.
    """
    if own_limit:
        used_bytes, quota_bytes = disk.total_bytes - disk.free_bytes, disk.total_bytes
    free = disk.free_bytes
    if used_bytes is not None and quota_bytes is not None:
        free = max(0, min(free, quota_bytes - used_bytes))
    scarce = NEARLY_FULL_BELOW_BYTES if quota_bytes is None else quota_bytes * NEARLY_FULL_RATIO
    state = State.OK
    if full or disk.out_of_files or free < FULL_BELOW_BYTES:
        state = State.FULL
    elif free < scarce:
        state = State.NEARLY_FULL
    return Room(used_bytes, quota_bytes, free, state)


def count_used(folder: str, seconds: float, user: Owner | None = None) -> int | None:
    """Return the space that everything below a folder takes on its disk; None when counting took too long.

    The tree may be as hostile as can be: ``du`` follows no link, stays on the disk, and counts a file with many
    names once.
    """
    mounted = [f"--exclude=./{EARLIER_VERSIONS}"] if _has_mounted(folder) else []
    command = ["du", "--summarize", "--one-file-system", "--block-size=1", *mounted, "."]
    output = b"".join(_output(command, folder, seconds, user))
    words = output.split(b"\t")
    return int(words[0]) if len(words) > 1 else None


def find_largest(folder: str, seconds: float, count: int = 10, user: Owner | None = None) -> tuple[Item, ...]:
    """Return what takes most space below a folder, the largest first; what was found so far when time is over."""
    rubbish = dict.fromkeys(RUBBISH, 0)
    files: list[tuple[int, str]] = []
    for size_bytes, path in _files(folder, seconds, user):
        within = next((name for name in RUBBISH if path.startswith(name + "/")), None)
        if within:
            rubbish[within] += size_bytes
        elif size_bytes < SMALLEST_LISTED_BYTES:
            continue  # large by its length alone: full of holes, which take no space
        elif len(files) < count:
            heapq.heappush(files, (size_bytes, path))
        else:
            heapq.heappushpop(files, (size_bytes, path))
    items = [Item(path, size_bytes) for size_bytes, path in files]
    items += [Item(path, size_bytes, is_folder=True) for path, size_bytes in rubbish.items() if size_bytes]
    return tuple(sorted(items, key=lambda item: (-item.size_bytes, item.path))[:count])


def _files(folder: str, seconds: float, user: Owner | None) -> Iterator[tuple[int, str]]:
    """Yield space on disk and path of files large enough to matter, and of all files among the rubbish."""
    among_rubbish = [part for name in RUBBISH for part in ("-path", f"./{name}/*", "-o")]
    wanted = ["(", *among_rubbish, "-size", f"+{SMALLEST_LISTED_BYTES - 1}c", ")"]
    rest = b""
    mounted = ["-path", f"./{EARLIER_VERSIONS}", "-prune", "-o"] if _has_mounted(folder) else []
    command = ["find", ".", "-xdev", *mounted, "-type", "f", *wanted, "-printf", r"%b %P\0"]
    for chunk in _output(command, folder, seconds, user):
        *lines, rest = (rest + chunk).split(b"\0")
        for line in lines:
            blocks, _, path = line.partition(b" ")
            yield int(blocks) * 512, os.fsdecode(path)


def _has_mounted(folder: str) -> bool:
    """Whether earlier versions are mounted in a home.

    Mostly they lie on the same disk, where staying on one disk does not leave them out. What is mounted there is
    read-only, which nothing is that a student put there to hide it.
    """
    try:
        place = os.open(f"{folder}/{EARLIER_VERSIONS}", os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return bool(os.statvfs(place).f_flag & os.ST_RDONLY)
    finally:
        os.close(place)


def try_to_write(folder: str, name: str, seconds: float, user: Owner | None = None) -> str:
    """Write some kilobytes to a new file, down to the disk; return what was said when that failed, else nothing.

    Root may write where nobody else can any more, so it is done with the rights of `user`.

    Raises
    ------
    TimeoutError
        Nothing was said in time.
    """
    target = [f"of={name}", f"bs={_PROBE_BYTES}", "count=1", "conv=excl,fsync", "status=none"]
    with _started(["dd", "if=/dev/zero", *target], folder, user, subprocess.PIPE) as process:
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise TimeoutError(f"writing took longer than {seconds:g} s") from None
    return "" if process.returncode == 0 else _last_words(said)


def is_full(said: str) -> bool:
    """Whether these words of a file system mean that there is no space left."""
    return "No space left on device" in said or "quota exceeded" in said.lower()


def _last_words(said: bytes) -> str:
    text = said.decode(errors="replace").strip()
    return text.rpartition(": ")[2] or "it did not say why"


def _output(command: Sequence[str], folder: str, seconds: float, user: Owner | None) -> Iterator[bytes]:
    """Yield what a command prints until it ends or time is over."""
    deadline = time.monotonic() + seconds
    with _started(command, folder, user, subprocess.DEVNULL) as process, selectors.DefaultSelector() as ready:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        ready.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if ready.select(left):
                chunk = os.read(process.stdout.fileno(), _CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk
        _kill(process)


def _started(command: Sequence[str], folder: str, user: Owner | None, errors: int) -> subprocess.Popen[bytes]:
    # Not Popen's own `user`: with it, a hub of hundreds of megabytes is copied (fork) where a vfork will do.
    rights = [] if user is None else ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    return subprocess.Popen(
        [*rights, "nice", *command],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it; what a dead file server holds ends when that server is back, and nobody waits for it here."""
    process.kill()
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        process.returncode = -9  # Popen must not wait for it either
