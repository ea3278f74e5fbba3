"""What gets no new sessions: drained servers and excluded GPUs, with the reason and who said so."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from idl_hub.db.tables import OutOfServiceRow
from idl_hub.gpus.placement import Closed
from idl_hub.gpus.silence import FENCED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy.orm import Session

    from idl_hub.db.database import Database


ORPHAN = "orphan"
"""Kind of the mark of a GPU that a container uses which no lease explains; `target` is the GPU's UUID."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A server or GPU that is out of service; `kind` is server, gpu, `ORPHAN` or `FENCED`."""

    kind: str
    target: str
    reason: str
    by: str
    since: float


class OutOfService:
    """The table of marks, with a picture in memory that placement reads at no cost. Only the hub writes it."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._marks: dict[tuple[str, str], Mark] = {}

    def load(self) -> None:
        """Read the table; blocks, for use before the loop serves anybody."""
        self._marks = {(mark.kind, mark.target): mark for mark in self._database.transact(marks_in)}

    def read_ended_gpus(self) -> tuple[Mark, ...]:
        """Return GPUs that were put into service again, `since` being when; blocks, for use at the start."""

        def look(session: Session) -> tuple[Mark, ...]:
            rows = session.scalars(
                select(OutOfServiceRow).where(OutOfServiceRow.kind == "gpu", OutOfServiceRow.ended_at.is_not(None))
            )
            return tuple(Mark(row.kind, row.target, row.reason, row.by, row.ended_at or 0) for row in rows)

        return self._database.transact(look)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What is out of service now."""
        return tuple(self._marks.values())

    def closed(self) -> Closed:
        """Return what placement must leave out, with the reasons."""
        return closed_by(self._marks.values())

    async def begin(self, kind: str, target: str, reason: str, by: str) -> bool:
        """Take it out of service; False when it is out already."""
        mark = Mark(kind, target, reason, by, self._clock())

        def insert(session: Session) -> bool:
            if _row(session, kind, target):
                return False
            session.add(OutOfServiceRow(kind=kind, target=target, reason=reason, by=by, since=mark.since))
            return True

        if not await self._database.run_again_on_conflict(insert):
            return False
        self._marks[(kind, target)] = mark
        return True

    async def finish(self, kind: str, target: str, by: str) -> bool:
        """Put it into service again; False when it is in service."""

        def close(session: Session) -> bool:
            row = _row(session, kind, target)
            if row is None:
                return False
            row.ended_at, row.ended_by = self._clock(), by
            return True

        if not await self._database.run(close):
            return False
        self._marks.pop((kind, target), None)
        return True


def closed_by(marks: Iterable[Mark]) -> Closed:
    """Return marks as placement reads them."""
    said = {(mark.kind, mark.target): f"{mark.reason} ({mark.by})" for mark in marks}
    return Closed(
        servers={target: why for (kind, target), why in said.items() if kind in ("server", FENCED)},
        gpus={target: why for (kind, target), why in said.items() if kind in ("gpu", ORPHAN)},
    )


def marks_in(session: Session) -> tuple[Mark, ...]:
    """Return what is out of service, within a transaction of the caller."""
    rows = session.scalars(select(OutOfServiceRow).where(OutOfServiceRow.ended_at.is_(None)))
    return tuple(Mark(row.kind, row.target, row.reason, row.by, row.since) for row in rows)


def _row(session: Session, kind: str, target: str) -> OutOfServiceRow | None:
    return session.scalar(
        select(OutOfServiceRow).where(
            OutOfServiceRow.kind == kind, OutOfServiceRow.target == target, OutOfServiceRow.ended_at.is_(None)
        )
    )
