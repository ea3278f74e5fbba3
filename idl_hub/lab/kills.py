"""What a student must know when the system has ended a program of theirs because memory ran out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idl_hub.lab import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from idl_hub.lab.memory import Memory

KERNEL_IS_MISSED_SECONDS = 5.0
"""Jupyter looks after its kernels every 3 s: only after that it is clear that it was none of them."""


@dataclass(frozen=True, slots=True)
class KilledKernel:
    """A kernel that was ended because memory ran out."""

    name: str
    """Its notebook."""
    at: float


@dataclass(frozen=True, slots=True)
class Killed:
    """What was ended since the student last took note."""

    kills: int
    """How many programs were ended since the session began; by this number the student takes note."""
    at: float
    """Seconds since 1970."""
    kernels: tuple[str, ...]
    """The notebooks whose kernels were among them; empty: other programs."""
    at_limit: bool
    """False: not the session but the whole machine was out of memory."""
    most_used_bytes: int | None
    limit_bytes: int


class KillWatch:
    """Compares what the system has ended with what the student took note of.

    Parameters
    ----------
    read, clock
        Where the count and the time (seconds since 1970) come from.
    """

    def __init__(self, read: Callable[[], Memory | None] = memory.read, clock: Callable[[], float] = time.time) -> None:
        self._read = read
        self._clock = clock
        self._noted = 0
        self._noted_at = float("-inf")
        self._kills = 0
        self._grew_at = 0.0

    def has_news(self) -> bool:
        """Return whether more was ended than the student took note of."""
        found = self._read()
        return found is not None and found.kills > self._noted

    def look(self, kernels: Sequence[KilledKernel]) -> Killed | None:
        """Return what the student must know; None when that is nothing, or not sure yet."""
        found = self._read()
        if found is None or found.kills <= self._noted:
            return None
        now = self._clock()
        if found.kills > self._kills:
            self._kills, self._grew_at = found.kills, now
        theirs = sorted((kernel for kernel in kernels if kernel.at > self._noted_at), key=lambda kernel: kernel.at)
        if not theirs and now - self._grew_at < KERNEL_IS_MISSED_SECONDS:
            return None
        return Killed(
            kills=found.kills,
            at=theirs[-1].at if theirs else self._grew_at,
            kernels=tuple(kernel.name for kernel in theirs),
            at_limit=found.at_limit,
            most_used_bytes=found.most_used_bytes,
            limit_bytes=found.limit_bytes,
        )

    def note(self, kills: int) -> None:
        """Take down that the student knows of so many; of what is ended from now on they are told again."""
        self._noted = max(self._noted, kills)
        self._noted_at = self._clock()


async def killed_kernels(kernel_manager: Any, session_manager: Any) -> tuple[KilledKernel, ...]:
    """Return this server's kernels that were ended because memory ran out, with their notebooks' names."""
    names = {}
    for session in await session_manager.list_sessions():
        names[session["kernel"]["id"]] = Path(session["path"]).name if session["type"] == "notebook" else ""
    killed = []
    for kernel_id in kernel_manager.list_kernel_ids():
        at = getattr(kernel_manager.get_kernel(kernel_id), "killed_at", None)
        if at is not None:
            killed.append(KilledKernel(names.get(kernel_id) or "a console", at))
    return tuple(killed)
