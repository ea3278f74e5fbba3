"""What the session's memory limit has done: read from the control group that this server runs in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_NO_LIMIT_BYTES = 2**60
"""Control groups of version 1 say a number near 2**63 where there is no limit."""
_AT_LIMIT = 0.95
"""What did not fit any more may have been large, so the most ever used is less than the limit."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The session's memory; None where the kernel does not tell."""

    kills: int
    """How many of the session's processes the system has ended because memory ran out."""
    at_limit: bool
    """Whether the session has been at its own limit; if not, the whole machine ran out of memory."""
    limit_bytes: int
    most_used_bytes: int | None = None
    """The most that was ever used at one time."""


def read(cgroups: Path = _CGROUPS, own: Path = _OWN) -> Memory | None:
    """Return what the control group of this server says, of version 1 or 2.

    None where it says nothing, or sets no limit: then it is not the session's own, as in a trial without containers.

    Parameters
    ----------
    cgroups
        Where the control groups are mounted.
    own
        The file that names this process's control groups: needed where the container sees all of the machine's.
    """
    version_1 = cgroups / "memory"
    if (version_1 / "memory.oom_control").exists():
        return _read_version_1(version_1)
    version_2 = _below(cgroups, own)
    return _read_version_2(version_2) if version_2 is not None else None


def _read_version_1(folder: Path) -> Memory | None:
    kills = _named(folder / "memory.oom_control").get("oom_kill")
    limit_bytes = _number(folder / "memory.limit_in_bytes")
    if kills is None or limit_bytes is None or limit_bytes >= _NO_LIMIT_BYTES:
        return None
    most_used_bytes = _number(folder / "memory.max_usage_in_bytes")
    # This version does not count how often its limit was the reason; memory.failcnt stays 0 where swap is limited, too.
    at_limit = most_used_bytes is None or most_used_bytes >= _AT_LIMIT * limit_bytes
    return Memory(kills, at_limit, limit_bytes, most_used_bytes)


def _read_version_2(folder: Path) -> Memory | None:
    events = _named(folder / "memory.events")
    limit_bytes = _number(folder / "memory.max")
    if "oom_kill" not in events or limit_bytes is None:
        return None
    return Memory(events["oom_kill"], events.get("oom", 0) > 0, limit_bytes, _number(folder / "memory.peak"))


def _below(cgroups: Path, own: Path) -> Path | None:
    """Return the group of this process: the root where it sees no more than its own, else as `own` says."""
    if (cgroups / "memory.events").exists():
        return cgroups
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    return next((cgroups / line[3:].lstrip("/") for line in lines if line.startswith("0::")), None)


def _named(file: Path) -> dict[str, int]:
    """Return the numbers of a file of lines such as ``oom_kill 3``; nothing when it cannot be read."""
    try:
        pairs = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(file: Path) -> int | None:
    """Return the number in a file; None when it cannot be read or says ``max``."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
