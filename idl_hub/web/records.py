"""What the tables say at one moment, as the pages need it. Read only."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from idl_hub.db.tables import LeaseGPURow, LeaseRow, OutOfServiceRow, TicketRow
from idl_hub.gpus.fences import fences_in
from idl_hub.gpus.leases import Phase
from idl_hub.gpus.line import Ticket, tickets_in
from idl_hub.gpus.members import Member, members_in
from idl_hub.gpus.service import Mark, marks_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from idl_hub.gpus.silence import Fence

_ENDED_IS_NEWS_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class HeldGPU:
    """A GPU by its address, as its lease names it."""

    uuid: str
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Held:
    """A live lease: somebody's session and the GPUs it holds."""

    id: str
    kind: str
    server: str
    user: str
    server_name: str
    phase: str
    reserved_at: float
    ready_at: float | None
    ends_at: float | None
    warned_at: float | None
    kept_at: float | None
    container_id: str | None
    end_message: str | None
    gpus: tuple[HeldGPU, ...]

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        return f"{self.user}:{self.server_name}" if self.server_name else self.user


@dataclass(frozen=True, slots=True)
class EndedTicket:
    """How somebody's last place in the line ended, within the last hour."""

    id: str
    state: str
    ending: str
    ended_at: float


@dataclass(frozen=True, slots=True)
class Records:
    """The tables at one moment. None stands for empty."""

    leases: tuple[Held, ...] = ()
    tickets: tuple[Ticket, ...] = ()
    """In the order of the line."""
    ended_tickets: Mapping[str, EndedTicket] | None = None
    """User -> the last one that ended."""
    marks: tuple[Mark, ...] = ()
    returned: Mapping[str, float] | None = None
    """GPU UUID -> when an admin last put it into service again."""
    members: tuple[Member, ...] = ()
    """The servers as the hub has them; none before it has written them down."""
    fences: tuple[Fence, ...] = ()
    """Sessions that were given up because their server is silent."""


def read(session: Session) -> Records:
    """Return what is live, within a transaction of the caller."""
    return Records(
        _leases(session),
        tickets_in(session),
        _ended_tickets(session),
        marks_in(session),
        _returned(session),
        members_in(session),
        fences_in(session),
    )


def _leases(session: Session) -> tuple[Held, ...]:
    gpus: dict[str, list[HeldGPU]] = defaultdict(list)
    held = select(LeaseGPURow.lease_id, LeaseGPURow.gpu_uuid, LeaseGPURow.gpu_index, LeaseGPURow.gpu_name)
    for row in session.execute(held.where(LeaseGPURow.released_at.is_(None)).order_by(LeaseGPURow.slot_id)):
        gpus[row.lease_id].append(HeldGPU(row.gpu_uuid, row.gpu_index, row.gpu_name))
    query = select(
        LeaseRow.id,
        LeaseRow.kind,
        LeaseRow.server,
        LeaseRow.user,
        LeaseRow.server_name,
        LeaseRow.phase,
        LeaseRow.reserved_at,
        LeaseRow.ready_at,
        LeaseRow.ends_at,
        LeaseRow.warned_at,
        LeaseRow.kept_at,
        LeaseRow.container_id,
        LeaseRow.end_message,
    )
    rows = session.execute(query.where(LeaseRow.phase != Phase.ENDED).order_by(LeaseRow.reserved_at))
    return tuple(Held(**row._mapping, gpus=tuple(gpus[row.id])) for row in rows)


def _ended_tickets(session: Session) -> dict[str, EndedTicket]:
    query = select(TicketRow.user, TicketRow.id, TicketRow.state, TicketRow.ending, TicketRow.ended_at)
    rows = session.execute(
        query.where(TicketRow.ended_at > time.time() - _ENDED_IS_NEWS_SECONDS).order_by(TicketRow.ended_at)
    )
    return {user: EndedTicket(id_, state, ending or "", ended_at or 0) for user, id_, state, ending, ended_at in rows}


def _returned(session: Session) -> dict[str, float]:
    query = select(OutOfServiceRow.target, func.max(OutOfServiceRow.ended_at)).where(
        OutOfServiceRow.kind == "gpu", OutOfServiceRow.ended_at.is_not(None)
    )
    return {target: at or 0 for target, at in session.execute(query.group_by(OutOfServiceRow.target))}
