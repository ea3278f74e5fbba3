"""What the keeper of leases needs to know of a place where sessions run: an engine, or this machine's processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class HostError(Exception):
    """The host did not answer, or answered something that proves nothing: whether a session runs is unknown."""


class UnfitHostError(HostError):
    """Nothing was made there, and nothing can be before an admin has been there; the message says why."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A container (or process tree) that carries our label.

    `ending` says in words how it ended when it does not run.
    """

    id: str
    lease_id: str
    hub_id: str
    running: bool
    gpu_uuids: tuple[str, ...]
    ending: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What happened on a host: it was connected to, or a unit of a lease started, ended or ran out of memory.

    After ``connected`` a look is due, since what happened before is not told.
    """

    kind: Literal["connected", "start", "die", "oom"]
    unit_id: str = ""
    lease_id: str = ""


class Host(Protocol):
    """A place where sessions run. Every call raises `HostError` when there is no answer within its deadline."""

    name: str

    async def ping(self) -> None:
        """Return when the host answers, which takes seconds at most."""

    async def units(self) -> tuple[Unit, ...]:
        """List everything that carries the label of a lease, running or not."""

    def changes(self) -> AsyncIterator[Change]:
        """Tell what happens, from now on, until the connection is lost; raises `HostError` then."""

    async def remove(self, unit_id: str, lease_id: str) -> None:
        """End the unit if it carries this lease's label, and return when it is gone; gone already is fine."""

    async def settle(self, lease_id: str) -> None:
        """Wait until no call made for this lease is under way."""

    def close(self) -> None:
        """Let go of connections and threads."""
