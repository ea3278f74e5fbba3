"""The table of sessions that were given up because their server is silent. Only the hub writes it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqlalchemy import select

from idl_hub.db.tables import FenceRow, LeaseRow
from idl_hub.gpus.leases import Lease, Phase, lease_of
from idl_hub.gpus.silence import Fence

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from idl_hub.db.database import Database

_INTERRUPTED = "the hub was started again meanwhile"


class Fences:
    """One row for each session that somebody asked to give up, until its server is back and may write again."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def load(self) -> tuple[Fence, ...]:
        """Return what is open when a hub starts; blocks. What was being cut off then has to be asked for again."""

        def look(session: Session) -> tuple[Fence, ...]:
            for row in _open_rows(session):
                if row.cut_at is None and row.accepted_at is None and row.failure is None:
                    row.failure = _INTERRUPTED
            session.flush()
            return fences_in(session)

        return self._database.transact(look)

    async def open(self) -> tuple[Fence, ...]:
        """Return what has not been lifted."""
        return await self._database.run(fences_in)

    async def ask(self, lease: Lease, by: str) -> None:
        """Note that a server is about to be cut off for this session; before it is, so that a hub that dies knows."""

        def write(session: Session) -> None:
            row = self._row(session, lease, by)
            row.called, row.failure = True, None

        await self._database.run(write)

    async def cut(self, lease: Lease) -> bool:
        """Give the session up: its server can write to the home no more. False when it has ended meanwhile."""

        def write(session: Session) -> bool:
            session.get_one(FenceRow, lease.id).cut_at = self._clock()
            return _give_up(session, lease.id)

        return await self._database.run(write)

    async def accept(self, lease: Lease, by: str) -> bool:
        """Give the session up: its holder takes the risk that it still writes. False when it has ended meanwhile."""

        def write(session: Session) -> bool:
            self._row(session, lease, by).accepted_at = self._clock()
            return _give_up(session, lease.id)

        return await self._database.run(write)

    async def fail(self, lease_id: str, why: str) -> None:
        """Note that the server could not be cut off."""
        await self._change(lease_id, failure=why)

    async def stopped(self, lease_id: str) -> None:
        """Note that JupyterHub has let the session go."""
        await self._change(lease_id, stopped_at=self._clock())

    async def lift(self, lease_id: str) -> None:
        """Note that the server is back and may write to the home again."""
        await self._change(lease_id, lifted_at=self._clock())

    async def _change(self, lease_id: str, **values: float | str) -> None:
        def write(session: Session) -> None:
            row = session.get_one(FenceRow, lease_id)
            for name, value in values.items():
                setattr(row, name, value)

        await self._database.run(write)

    def _row(self, session: Session, lease: Lease, by: str) -> FenceRow:
        """Return the open row of this lease; one that was lifted, when the session went on after all, begins anew."""
        row = session.get(FenceRow, lease.id)
        if row is None or row.lifted_at is not None:
            if row is not None:
                session.delete(row)
                session.flush()
            row = FenceRow(
                lease_id=lease.id,
                server=lease.server,
                user=lease.user,
                asked_by=by,
                asked_at=self._clock(),
                called=False,
            )
            session.add(row)
        return row


def fences_in(session: Session) -> tuple[Fence, ...]:
    """Return what has not been lifted, within a transaction of the caller."""
    return tuple(
        Fence(
            lease_id=row.lease_id,
            server=row.server,
            user=row.user,
            asked_by=row.asked_by,
            called=row.called,
            cut_at=row.cut_at,
            accepted_at=row.accepted_at,
            failure=row.failure,
            stopped_at=row.stopped_at,
        )
        for row in _open_rows(session)
    )


def _open_rows(session: Session) -> list[FenceRow]:
    return list(session.scalars(select(FenceRow).where(FenceRow.lifted_at.is_(None)).order_by(FenceRow.asked_at)))


def _give_up(session: Session, lease_id: str) -> bool:
    """Call the lease lost, in the transaction that says why: no hub may find the one without the other."""
    row = session.get_one(LeaseRow, lease_id)
    if row.phase == Phase.ENDED:
        return False
    row.phase = Phase.LOST
    return True


def left_behind(session: Session, user: str, server_name: str) -> tuple[Lease, ...]:
    """Return earlier sessions of a user's server that may still run where nobody answers.

    Those that nobody was ever let into are not meant: there is nothing in them that writes.
    """
    query = select(LeaseRow).where(
        LeaseRow.user == user,
        LeaseRow.server_name == server_name,
        LeaseRow.phase == Phase.LOST,
        LeaseRow.ready_at.is_not(None),
    )
    return tuple(lease_of(row) for row in session.scalars(query))
