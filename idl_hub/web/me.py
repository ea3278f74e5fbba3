"""What one person is told about themselves: their session, their place in the line, how many GPUs are free."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from idl_hub.gpus import reclaim
from idl_hub.gpus.leases import Phase
from idl_hub.web import silence

if TYPE_CHECKING:
    from idl_hub.web.picture import Moment, Picture, Terms
    from idl_hub.web.records import EndedTicket, Held

_IDLE_STEP_SECONDS = 10


def about(user: str, picture: Picture, moment: Moment, terms: Terms, server_name: str | None = None) -> dict[str, Any]:
    """Return the answer of `GET api/me`.

    Parameters
    ----------
    server_name
        Which of the person's servers is meant; None: their default one, else the first.
    """
    records = moment.records
    own = [lease for lease in records.leases if lease.user == user and lease.kind == "session"]
    # One that was given up is nobody's session any more, and whoever has a newer one asks about that.
    lease = _theirs([lease for lease in own if lease.phase != Phase.LOST], server_name)
    left = _theirs([lease for lease in own if lease.phase == Phase.LOST], server_name)
    ticket = _theirs([place for place in picture.line if place["user"] == user], server_name)
    ended = (records.ended_tickets or {}).get(user)
    return {
        "user": user,
        "simulated": picture.totals["simulated"],
        "now": round(moment.now),
        "session": _session(lease, picture, moment, terms) if lease else None,
        "silence": silence.about(lease or left, records, terms.silence, moment.now) if lease or left else None,
        "ticket": ticket,
        "last_ticket": _last(ended) if ended and not ticket else None,
        "free": picture.totals["free"],
        "total": picture.totals["gpus"],
        "waiting": _waiting(picture),
    }


def _waiting(picture: Picture) -> int:
    return sum(place["position"] is not None for place in picture.line)


def _theirs(found: list[Any], server_name: str | None) -> Any:
    """Return the one of the server that is meant; None when there is none."""

    def name(one: Any) -> str:
        return str(one["server_name"] if isinstance(one, dict) else one.server_name)

    wanted = [one for one in found if name(one) == (server_name or "")]
    if wanted or server_name is not None:
        return wanted[0] if wanted else None
    return found[0] if found else None


def _last(ended: EndedTicket) -> dict[str, Any]:
    return {"id": ended.id, "state": ended.state, "ending": ended.ending, "ended_at": round(ended.ended_at)}


def _session(lease: Held, picture: Picture, moment: Moment, terms: Terms) -> dict[str, Any]:
    session = reclaim.session_of(lease, moment.idle_since([gpu.uuid for gpu in lease.gpus]))
    others_wait = _waiting(picture) > 0
    notice = reclaim.notice(session, terms.policy, moment.now, others_wait=others_wait)
    return {
        "lease_id": lease.id,
        "phase": lease.phase,
        "server": lease.server,
        "server_name": lease.server_name,
        "started_at": round(lease.ready_at or lease.reserved_at),
        "gpus": [
            _gpu(gpu.uuid, gpu.index, gpu.name, picture) | {"processes": _processes(gpu.uuid, lease, moment)}
            for gpu in lease.gpus
        ],
        "idle_seconds": _idle_seconds(session.idle_since, moment.now),
        "ends_at": lease.ends_at,
        "can_extend": lease.ends_at is not None and lease.end_message is None and not others_wait,
        "notice": asdict(notice) if notice else None,
    }


def _processes(uuid: str, lease: Held, moment: Moment) -> list[dict[str, int | None]] | None:
    """Return the session's own processes on a GPU, by the PIDs that its container knows; None when not told."""
    for reading in moment.readings:
        for gpu in reading.gpus:
            if gpu.uuid == uuid and gpu.processes is not None and lease.container_id is not None:
                return [
                    {"pid_in_container": process.pid_in_container, "memory_used_bytes": process.memory_used_bytes}
                    for process in gpu.processes
                    if process.container_id == lease.container_id and process.pid_in_container is not None
                ]
    return None


def _idle_seconds(since: float | None, now: float) -> int | None:
    """Return it in steps, so that not every second brings news."""
    return None if since is None else int(max(0.0, now - since) // _IDLE_STEP_SECONDS * _IDLE_STEP_SECONDS)


def _gpu(uuid: str, index: int, name: str, picture: Picture) -> dict[str, Any]:
    tile = picture.gpus.get(uuid)
    told = {"uuid": uuid, "index": index, "name": name}
    if tile is None:
        return told | {
            "utilization_ratio": None,
            "memory_used_bytes": None,
            "memory_total_bytes": None,
            "temperature_celsius": None,
            "health": "unknown",
            "reason": "no reading of this GPU",
            "utilization_percent_by_minute": [],
        }
    figures = ("utilization_ratio", "memory_used_bytes", "memory_total_bytes", "temperature_celsius", "health")
    return told | {key: tile[key] for key in (*figures, "reason", "utilization_percent_by_minute")}
