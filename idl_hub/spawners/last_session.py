"""How a student's last session ended, for the hub's pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from idl_hub.db.tables import EventRow, LeaseRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

STOPPED = "stopped"
"""Ending of a session that was stopped through JupyterHub: by its holder, or by somebody who wrote down why."""
ENDED_BY_ITSELF = "its server ended"
"""Ending of a session whose server was found not to run, before its host was asked for more."""
_NEWS_SECONDS = 6 * 86400.0
"""A day of the week names a time within so long."""
_OUT_OF_MEMORY = re.compile(r"it was killed because it used .* of memory")
_SHUT_DOWN = re.compile(r"its container ended \(exit code (0|143)\)")


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a session that its holder did not ask for."""

    at: float
    """Seconds since 1970."""
    words: str

    @property
    def advice(self) -> str:
        """What to do about it; empty where there is nothing to do."""
        if not _OUT_OF_MEMORY.match(self.words):
            return ""
        return "Load less at once, and delete large files in /tmp: they count as memory."

    @property
    def moment(self) -> datetime:
        """When, in UTC."""
        return datetime.fromtimestamp(self.at, UTC)


def find(session: Session, user: str, server_name: str, now: float) -> Ended | None:
    """Return how the last session of a user's server ended.

    None when its holder stopped it or something newer runs, when it was never ready (the start said why), or when it
    is old news.
    """
    newest = (
        select(LeaseRow)
        .where(LeaseRow.user == user, LeaseRow.server_name == server_name, LeaseRow.kind == "session")
        .order_by(LeaseRow.reserved_at.desc())
        .limit(1)
    )
    lease = session.scalar(newest)
    if lease is None or lease.ended_at is None or lease.ready_at is None or lease.ended_at < now - _NEWS_SECONDS:
        return None
    words = _written_down(session, lease.id) if lease.ending == STOPPED else _in_plain_words(lease.ending or "")
    return Ended(lease.ended_at, words) if words else None


def _written_down(session: Session, lease_id: str) -> str:
    """Return why the hub or a person stopped a session; empty when nothing says so: its holder did."""
    last = (
        select(EventRow.text)
        .where(EventRow.lease_id == lease_id, EventRow.kind == "stop")
        .order_by(EventRow.at.desc())
        .limit(1)
    )
    return (session.scalar(last) or "").removeprefix("stopped: ")


def _in_plain_words(ending: str) -> str:
    if _SHUT_DOWN.match(ending):
        return "it shut itself down, because you chose so in JupyterLab or because it was not used"
    return ending
