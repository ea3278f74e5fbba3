"""The waiting line: tickets in a table, and pure functions that say whose turn it is and when.

A ticket is waiting, then offered (a GPU is reserved and the server starts), then ready (to be opened
within a set time), and ends opened, left, expired or failed. First come, first served; a request that
needs more GPUs than are free lets those behind it pass, so that no GPU idles while somebody waits for it.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from idl_hub.db.tables import LeaseRow, TicketRow
from idl_hub.gpus.leases import Lease, Phase, holders_in, lease_of, reserve_in
from idl_hub.gpus.placement import Choice, NoGPU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session

    from idl_hub.db.database import Database


class TicketState(StrEnum):
    """Where a ticket is; the last four are endings."""

    WAITING = "waiting"
    OFFERED = "offered"
    READY = "ready"
    OPENED = "opened"
    LEFT = "left"
    EXPIRED = "expired"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in the line."""

    id: str
    user: str
    server_name: str
    gpu_count: int
    options: Mapping[str, Any]
    state: TicketState
    created_at: float
    place: float
    lease_id: str | None
    offered_at: float | None
    ready_at: float | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """When a held GPU may come free: at the latest (session limit), and earlier when it sits idle."""

    gpu_uuid: str
    ends_at: float | None
    idle_ends_at: float | None


@dataclass(frozen=True, slots=True)
class Expectation:
    """When a place's turn is expected; `at` is None when nobody can say."""

    at: float | None
    text: str


def positions(tickets: Iterable[Ticket]) -> dict[str, int]:
    """Return ticket id -> position, 1 for who is next, of those that wait."""
    waiting = sorted((ticket for ticket in tickets if ticket.state is TicketState.WAITING), key=_order)
    return {ticket.id: number for number, ticket in enumerate(waiting, 1)}


def expectation(position: int, outlooks: Sequence[Outlook], now: float) -> Expectation:
    """Say when the GPU for a position comes free at the latest, from session limits and idle GPUs.

    Parameters
    ----------
    position
        1 for who is next.
    outlooks
        One for each GPU that is held.
    """
    known = [min(times) for outlook in outlooks if (times := _times(outlook))]
    if len(known) < position:
        return Expectation(None, "unknown: the sessions that hold GPUs have no set end")
    at = sorted(known)[position - 1]
    minutes = max(0, round((at - now) / 60))
    if minutes < 1:
        return Expectation(at, "any moment now")
    if minutes < 90:
        return Expectation(at, f"in {minutes} min at the latest, sooner when somebody stops")
    return Expectation(at, f"in {minutes / 60:.0f} h at the latest, sooner when somebody stops")


def _times(outlook: Outlook) -> list[float]:
    return [time_ for time_ in (outlook.ends_at, outlook.idle_ends_at) if time_ is not None]


def _order(ticket: Ticket) -> tuple[float, str]:
    return ticket.place, ticket.id


class Line:
    """The table of tickets. Only the hub writes it."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def live(self) -> tuple[Ticket, ...]:
        """Return every ticket that has not ended, in the order of the line."""
        return await self._database.run(tickets_in)

    async def acquire(
        self,
        lease_id: str,
        user: str,
        server_name: str,
        gpu_count: int,
        options: Mapping[str, Any],
        choose: Callable[[Mapping[str, str], int], Choice | NoGPU],
    ) -> Lease | Ticket | NoGPU:
        """Reserve GPUs for somebody who asks now, or give them a place in the line; in one transaction.

        What those ahead could get stays theirs. Who has been offered a GPU gets that one. Asking for no GPU
        leaves the line.

        Parameters
        ----------
        choose
            From GPU UUID -> holder and the number of GPUs to a choice; may be called again.

        Returns
        -------
        Lease, Ticket or NoGPU
            A reservation; a waiting ticket; or, for a session without GPU, why there is no server for it.
        """

        def work(session: Session) -> Lease | Ticket | NoGPU:
            own = _live_row(session, user, server_name)
            if gpu_count == 0:
                if own:
                    self._end(own, TicketState.LEFT, "started without a GPU")
                choice = choose(holders_in(session), 0)
                return (
                    choice if isinstance(choice, NoGPU) else self._reserve(session, lease_id, user, server_name, choice)
                )
            if own and own.state != TicketState.WAITING and (offered := _reserved_for(session, own)):
                return lease_of(offered)
            choice = self._after_those_ahead(session, own, gpu_count, choose)
            if isinstance(choice, NoGPU):
                return _ticket(self._join(session, own, user, server_name, gpu_count, options))
            lease = self._reserve(session, lease_id, user, server_name, choice)
            if own:
                own.state, own.lease_id, own.offered_at = TicketState.OFFERED, lease.id, self._clock()
            return lease

        return await self._database.run_again_on_conflict(work)

    def _after_those_ahead(
        self,
        session: Session,
        own: TicketRow | None,
        gpu_count: int,
        choose: Callable[[Mapping[str, str], int], Choice | NoGPU],
    ) -> Choice | NoGPU:
        holders = dict(holders_in(session))
        for ahead, choice in _fitting(_waiting_rows(session, until=own), holders, choose):
            holders |= {gpu.uuid: f"{ahead.user}, next in line" for gpu in choice.gpus}
        return choose(holders, gpu_count)

    def _reserve(self, session: Session, lease_id: str, user: str, server_name: str, choice: Choice) -> Lease:
        return reserve_in(session, lease_id, user, server_name, choice, now=self._clock())

    def _join(
        self,
        session: Session,
        own: TicketRow | None,
        user: str,
        server_name: str,
        gpu_count: int,
        options: Mapping[str, Any],
    ) -> TicketRow:
        now = self._clock()
        if own is None:
            own = TicketRow(
                id=uuid.uuid4().hex[:12], user=user, server_name=server_name, created_at=now, place=now, attempts=0
            )
            session.add(own)
        own.state, own.lease_id = TicketState.WAITING, None
        own.gpu_count, own.options = gpu_count, json.dumps(dict(options))
        session.flush()
        return own

    async def offer_next(
        self, lease_id: str, choose: Callable[[Mapping[str, str], int], Choice | NoGPU]
    ) -> tuple[Ticket, Lease] | None:
        """Reserve GPUs for the first waiting ticket for which there are any; None when there are for none.

        Costs one transaction and a choice for each number of GPUs that is asked for, however long the line.
        """

        def work(session: Session) -> tuple[Ticket, Lease] | None:
            for row, choice in _fitting(_waiting_rows(session), holders_in(session), choose):
                lease = self._reserve(session, lease_id, row.user, row.server_name, choice)
                row.state, row.lease_id, row.offered_at = TicketState.OFFERED, lease.id, self._clock()
                return _ticket(row), lease
            return None

        return await self._database.run_again_on_conflict(work)

    async def ready(self, user: str, server_name: str, lease_id: str) -> None:
        """Note that the server of an offered ticket answers; from now on it is to be opened."""

        def note(session: Session) -> None:
            row = _live_row(session, user, server_name)
            if row and row.lease_id == lease_id and row.state == TicketState.OFFERED:
                row.state, row.ready_at = TicketState.READY, self._clock()

        await self._database.run(note)

    async def wait_again(self, ticket_id: str, most_attempts: int) -> TicketState:
        """Put an offered ticket back to its place, since nothing came of the offer; too often, and it fails."""

        def put_back(session: Session) -> TicketState:
            row = session.get_one(TicketRow, ticket_id)
            row.attempts += 1
            row.lease_id = row.offered_at = row.ready_at = None
            if row.attempts >= most_attempts:
                self._end(row, TicketState.FAILED, f"the server did not start {row.attempts} times")
            else:
                row.state = TicketState.WAITING
            return TicketState(row.state)

        return await self._database.run(put_back)

    async def end(self, ticket_id: str, state: TicketState, ending: str) -> Ticket | None:
        """End a live ticket; None when there is none any more."""

        def finish(session: Session) -> Ticket | None:
            row = session.get(TicketRow, ticket_id)
            if row is None or row.ended_at is not None:
                return None
            self._end(row, state, ending)
            return _ticket(row)

        return await self._database.run(finish)

    async def end_of_lease(self, lease_id: str, state: TicketState, ending: str) -> None:
        """End the ticket that a lease was reserved for, if there is one."""

        def finish(session: Session) -> None:
            query = select(TicketRow).where(TicketRow.lease_id == lease_id, TicketRow.ended_at.is_(None))
            for row in session.scalars(query):
                self._end(row, state, ending)

        await self._database.run(finish)

    async def to_front(self, ticket_id: str, by: str) -> Ticket | None:
        """Move a waiting ticket before all others, and record who did it; None when it does not wait."""

        def move(session: Session) -> Ticket | None:
            row = session.get(TicketRow, ticket_id)
            if row is None or row.state != TicketState.WAITING:
                return None
            row.place = min(other.place for other in _waiting_rows(session)) - 1
            row.moved_by = by
            return _ticket(row)

        return await self._database.run(move)

    def _end(self, row: TicketRow, state: TicketState, ending: str) -> None:
        row.state, row.ending, row.ended_at = state, ending, self._clock()


def tickets_in(session: Session) -> tuple[Ticket, ...]:
    """Return every live ticket in the order of the line, within a transaction of the caller."""
    rows = session.scalars(
        select(TicketRow).where(TicketRow.ended_at.is_(None)).order_by(TicketRow.place, TicketRow.id)
    )
    return tuple(_ticket(row) for row in rows)


def _waiting_rows(session: Session, until: TicketRow | None = None) -> list[TicketRow]:
    """Return who waits, in the order of the line; with `until`, only those ahead of that one."""
    query = select(TicketRow).where(TicketRow.state == TicketState.WAITING).order_by(TicketRow.place, TicketRow.id)
    rows = list(session.scalars(query))
    return rows[: rows.index(until)] if until in rows else rows


def _fitting(
    rows: Iterable[TicketRow],
    holders: Mapping[str, str],
    choose: Callable[[Mapping[str, str], int], Choice | NoGPU],
) -> Iterator[tuple[TicketRow, Choice]]:
    """Yield, in the order of the line, those for whom there are GPUs, and which; `holders` may grow meanwhile."""
    hopeless: int | None = None
    for row in rows:
        # What was too many a moment ago is too many still: GPUs only get fewer while this goes on.
        if hopeless is not None and row.gpu_count >= hopeless:
            continue
        choice = choose(holders, row.gpu_count)
        if isinstance(choice, NoGPU):
            hopeless = row.gpu_count
        else:
            yield row, choice


def _live_row(session: Session, user: str, server_name: str) -> TicketRow | None:
    return session.scalar(
        select(TicketRow).where(
            TicketRow.user == user, TicketRow.server_name == server_name, TicketRow.ended_at.is_(None)
        )
    )


def _reserved_for(session: Session, ticket: TicketRow) -> LeaseRow | None:
    lease = session.get(LeaseRow, ticket.lease_id) if ticket.lease_id else None
    return lease if lease and lease.phase == Phase.RESERVED else None


def _ticket(row: TicketRow) -> Ticket:
    return Ticket(
        id=row.id,
        user=row.user,
        server_name=row.server_name,
        gpu_count=row.gpu_count,
        options=json.loads(row.options),
        state=TicketState(row.state),
        created_at=row.created_at,
        place=row.place,
        lease_id=row.lease_id,
        offered_at=row.offered_at,
        ready_at=row.ready_at,
        attempts=row.attempts,
    )
