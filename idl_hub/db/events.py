"""What happened, in words, so that a person's question "why?" has an answer later."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from idl_hub.db.tables import EventRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from idl_hub.db.database import Database


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a timeline."""

    at: float
    kind: str
    text: str
    user: str | None = None
    server: str | None = None
    gpu_uuid: str | None = None
    lease_id: str | None = None


class Events:
    """The table of what happened; rows are only ever added."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def note(
        self,
        kind: str,
        text: str,
        *,
        user: str | None = None,
        server: str | None = None,
        gpu_uuid: str | None = None,
        lease_id: str | None = None,
    ) -> None:
        """Write down what happened to whom."""
        row = EventRow(
            at=self._clock(), kind=kind, text=text, user=user, server=server, gpu_uuid=gpu_uuid, lease_id=lease_id
        )
        await self._database.run(lambda session: session.add(row))


def events_of_user(session: Session, name: str, since: float = 0) -> tuple[Event, ...]:
    """Return a person's events within a transaction of the caller."""
    rows = session.scalars(
        select(EventRow).where(EventRow.user == name, EventRow.at >= since).order_by(EventRow.at, EventRow.id)
    )
    return tuple(Event(row.at, row.kind, row.text, row.user, row.server, row.gpu_uuid, row.lease_id) for row in rows)
