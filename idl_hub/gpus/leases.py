"""Who holds which GPU. A lease is a row, committed before anything is created for it.

Phases: reserved -> creating -> running -> stopping -> ended; lost when its server does not answer
and nobody can say whether its container still runs (it then keeps its GPUs).
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import select

from idl_hub.db.tables import HubRow, LeaseGPURow, LeaseRow
from idl_hub.gpus.placement import Choice, ChosenGPU

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from idl_hub.db.database import Database


class Phase(StrEnum):
    """Where a lease is in its life."""

    RESERVED = "reserved"
    CREATING = "creating"
    RUNNING = "running"
    STOPPING = "stopping"
    LOST = "lost"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Lease:
    """A session's hold on a place and its GPUs; `gpus` is empty for a session without GPU."""

    id: str
    kind: str
    server: str
    user: str
    server_name: str
    gpus: tuple[ChosenGPU, ...]
    phase: Phase
    container_id: str | None
    reason: str
    reserved_at: float

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        return f"{self.user}:{self.server_name}" if self.server_name else self.user


def new_lease_id() -> str:
    """Return an id that no lease has had."""
    return uuid.uuid4().hex[:12]


class Leases:
    """The ledger. Only the hub writes it."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def read_hub_id(self) -> str:
        """Return this hub's identity, made at its first start; blocks, for use before the loop serves anybody."""
        return self._database.transact(_hub_id)

    def read_live(self) -> tuple[Lease, ...]:
        """Return every lease that has not ended; blocks, for use before the loop serves anybody."""
        return self._database.transact(_live)

    async def live(self) -> tuple[Lease, ...]:
        """Return every lease that has not ended, oldest first."""
        return await self._database.run(_live)

    async def advance(self, lease_id: str, phase: Phase, container_id: str | None = None) -> bool:
        """Move a live lease to `phase`, with its container's id if that is new. False when the lease has ended."""

        def move(session: Session) -> bool:
            row = session.get(LeaseRow, lease_id)
            if row is None or row.phase == Phase.ENDED:
                return False
            row.phase = phase
            row.container_id = container_id or row.container_id
            return True

        return await self._database.run(move)

    async def last_server(self, user: str) -> str | None:
        """Return the server of a user's newest session; None when there was none."""
        newest = select(LeaseRow.server).where(LeaseRow.user == user).order_by(LeaseRow.reserved_at.desc()).limit(1)
        return await self._database.run(lambda session: session.scalar(newest))

    async def move(self, lease_id: str, server: str) -> None:
        """Name the server of a lease anew."""

        def rename(session: Session) -> None:
            session.get_one(LeaseRow, lease_id).server = server

        await self._database.run(rename)

    async def ready(self, lease_id: str, ends_at: float | None) -> bool:
        """Note that the server answers, and when it must end at the latest. False when the lease has ended."""

        def move(session: Session) -> bool:
            row = session.get(LeaseRow, lease_id)
            if row is None or row.phase == Phase.ENDED:
                return False
            row.phase, row.ready_at, row.ends_at = Phase.RUNNING, self._clock(), ends_at
            return True

        return await self._database.run(move)

    async def announce_end(self, lease_id: str, at: float, message: str) -> bool:
        """Note that a person ends the session at a moment, and what its holder is told; False when it has ended."""

        def note(session: Session) -> bool:
            row = session.get(LeaseRow, lease_id)
            if row is None or row.phase == Phase.ENDED:
                return False
            row.ends_at = at if row.ends_at is None else min(at, row.ends_at)
            row.end_message = message
            return True

        return await self._database.run(note)

    async def end(self, lease_id: str, ending: str) -> bool:
        """Free what the lease holds. False when it had ended before."""

        def finish(session: Session) -> bool:
            row = session.get(LeaseRow, lease_id)
            if row is None or row.phase == Phase.ENDED:
                return False
            row.phase, row.ended_at, row.ending = Phase.ENDED, self._clock(), ending
            for gpu in row.gpus:
                gpu.released_at = row.ended_at
            return True

        return await self._database.run(finish)

    async def known(self, lease_id: str) -> bool:
        """Whether the ledger has ever given out this lease."""
        return await self._database.run(lambda session: session.get(LeaseRow, lease_id) is not None)


def _hub_id(session: Session) -> str:
    row = session.scalar(select(HubRow))
    if row is None:
        row = HubRow(id=uuid.uuid4().hex[:12], created_at=time.time())
        session.add(row)
    return row.id


def _live_rows(session: Session) -> list[LeaseRow]:
    query = select(LeaseRow).where(LeaseRow.phase != Phase.ENDED).order_by(LeaseRow.reserved_at)
    return list(session.scalars(query))


def _live(session: Session) -> tuple[Lease, ...]:
    return tuple(lease_of(row) for row in _live_rows(session))


def holders_in(session: Session) -> dict[str, str]:
    """Return GPU UUID -> holder of all live leases, within a transaction of the caller."""
    return {gpu.gpu_uuid: lease_of(row).holder for row in _live_rows(session) for gpu in row.gpus}


def reserve_in(
    session: Session, lease_id: str, user: str, server_name: str, choice: Choice, *, now: float, kind: str = "session"
) -> Lease:
    """Add a lease in phase reserved, within a transaction of the caller.

    Raises
    ------
    sqlalchemy.exc.IntegrityError
        Somebody else holds one of the GPUs.
    """
    row = LeaseRow(
        id=lease_id,
        kind=kind,
        server=choice.server,
        user=user,
        server_name=server_name,
        phase=Phase.RESERVED,
        reason=choice.reason,
        reserved_at=now,
    )
    row.gpus = [
        LeaseGPURow(gpu_uuid=gpu.uuid, gpu_index=gpu.index, gpu_name=gpu.name, slot=gpu.slot) for gpu in choice.gpus
    ]
    session.add(row)
    session.flush()
    return lease_of(row)


def lease_of(row: LeaseRow) -> Lease:
    """Return a row as the value that travels."""
    return Lease(
        id=row.id,
        kind=row.kind,
        server=row.server,
        user=row.user,
        server_name=row.server_name,
        gpus=tuple(ChosenGPU(gpu.gpu_uuid, gpu.gpu_index, gpu.gpu_name, gpu.slot) for gpu in row.gpus),
        phase=Phase(row.phase),
        container_id=row.container_id,
        reason=row.reason,
        reserved_at=row.reserved_at,
    )
