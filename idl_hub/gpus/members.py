"""Which servers there are, as the hub last wrote it down: the one place where other processes learn of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy import select

from idl_hub.db.tables import ServerRow
from idl_hub.settings_servers import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

    from idl_hub.gpus.placement import Closed

log = logging.getLogger(__name__)

SAY_AT_LEAST_EVERY_SECONDS = 10
"""A hub that runs writes its members down so often, also when nothing has changed."""


@dataclass(frozen=True, slots=True)
class Member:
    """A server as the hub has it now."""

    name: str
    settings: ServerSettings | None
    """None for the hub's own machine, which the settings do not name as a server."""
    leaving: bool = False
    """Not in the settings any more; it gets no new sessions, those it has go on."""
    engine_version: str | None = None
    silent_since: float | None = None
    """Since when its engine does not answer."""
    fault: str | None = None
    """Why it does not, in words."""
    said_at: float = 0.0
    """When the hub wrote this down."""

    @property
    def why_closed(self) -> str:
        """Why it gets no new sessions, in words for everybody; empty when it does."""
        if self.leaving:
            return "it leaves: it is not in the settings any more"
        if self.fault is not None:
            since = time.strftime("%H:%M", time.localtime(self.silent_since)) if self.silent_since else "the start"
            return f"its engine does not answer since {since}"
        return ""

    @property
    def trouble(self) -> str:
        """The same for staff: with the fault, in which addresses of the inside may stand."""
        return f"{self.why_closed}: {self.fault}" if self.why_closed and self.fault else self.why_closed


def closed_with(closed: Closed, members: Iterable[Member]) -> Closed:
    """Return what placement must leave out: what an admin closed, and servers that leave or do not answer."""
    why = {member.name: member.why_closed for member in members if member.why_closed}
    return replace(closed, servers=why | dict(closed.servers)) if why else closed


def servers_of(members: Iterable[Member]) -> tuple[ServerSettings, ...]:
    """Return what the settings say of those that the settings name, or named."""
    return tuple(member.settings for member in members if member.settings is not None)


def members_in(session: Session) -> tuple[Member, ...]:
    """Return all members in the order of the settings, within a transaction of the caller."""
    rows = session.scalars(select(ServerRow).order_by(ServerRow.place, ServerRow.name))
    return tuple(
        Member(
            row.name,
            _settings(row),
            row.leaving,
            row.engine_version,
            row.silent_since,
            row.fault,
            row.said_at,
        )
        for row in rows
    )


def _settings(row: ServerRow) -> ServerSettings | None:
    try:
        return ServerSettings.model_validate_json(row.settings) if row.settings else None
    except ValidationError as error:  # written by another version
        log.warning("What is written down of the server %s cannot be used: %s", row.name, error)
        return None


def write_members(session: Session, members: Iterable[Member]) -> None:
    """Write all members down, in this order; whoever is not among them is none any more."""
    known = {row.name: row for row in session.scalars(select(ServerRow))}
    for place, member in enumerate(members):
        row = known.pop(member.name, None)
        if row is None:
            session.add(row := ServerRow(name=member.name))
        row.place = place
        row.settings = member.settings.model_dump_json() if member.settings else ""
        row.leaving = member.leaving
        row.engine_version = member.engine_version
        row.silent_since = member.silent_since
        row.fault = member.fault
        row.said_at = member.said_at
    for row in known.values():
        session.delete(row)
