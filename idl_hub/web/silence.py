"""What a person is told when the server of their session does not answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idl_hub.gpus.silence import Stage, stage

if TYPE_CHECKING:
    from idl_hub.web.records import Held, Records


@dataclass(frozen=True, slots=True)
class Terms:
    """When a start elsewhere is offered, and whether a silent server can be kept from writing to homes."""

    grace_seconds: float = 600.0
    can_cut: bool = False


def about(lease: Held, records: Records, terms: Terms, now: float) -> dict[str, Any] | None:
    """Return what `GET api/me` says of it; None while there is nothing to say."""
    fence = next((fence for fence in records.fences if fence.lease_id == lease.id), None)
    since = _silent_since(lease.server, records)
    where = stage(since, fence, terms.grace_seconds, now)
    if where is Stage.ANSWERS:
        return None
    return {
        "stage": where.value,
        "lease_id": lease.id,
        "server": lease.server,
        "server_name": lease.server_name,
        "gpus": len(lease.gpus),
        "since": round(since) if since else None,
        "offered_at": round(since + terms.grace_seconds) if since else None,
        "can_cut": terms.can_cut,
    }


def _silent_since(server: str, records: Records) -> float | None:
    for member in records.members:
        if member.name == server:
            return member.silent_since
    return 0.0 if records.members else None  # it is not in the settings any more
