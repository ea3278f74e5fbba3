"""What one person is told about themselves: their session, their place in the line, how many GPUs are free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idl_hub.web.picture import IDLE_WARNING_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from idl_hub.web.picture import Picture
    from idl_hub.web.records import EndedTicket, Held, Records

LENGTH_WARNING_SECONDS = 3600
"""The end of the longest allowed session is announced so long before."""
_IDLE_STEP_SECONDS = 10


def about(
    user: str,
    picture: Picture,
    records: Records,
    idle_seconds: Callable[[str], float | None],
    now: float,
    server_name: str | None = None,
) -> dict[str, Any]:
    """Return the answer of `GET api/me`.

    Parameters
    ----------
    idle_seconds
        From a GPU's UUID to how long no kernel ran on it.
    server_name
        Which of the person's servers is meant; None: their default one, else the first.
    """
    lease = _theirs([lease for lease in records.leases if lease.user == user and lease.kind == "session"], server_name)
    ticket = _theirs([place for place in picture.line if place["user"] == user], server_name)
    ended = (records.ended_tickets or {}).get(user)
    return {
        "user": user,
        "simulated": picture.totals.get("simulated", False),
        "now": round(now),
        "session": _session(lease, picture, idle_seconds, now) if lease else None,
        "ticket": ticket,
        "last_ticket": _last(ended) if ended and not ticket else None,
        "free": picture.totals.get("free", 0),
        "total": picture.totals.get("gpus", 0),
        "waiting": picture.line[0]["of"] if picture.line else 0,
    }


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


def _session(lease: Held, picture: Picture, idle_seconds: Callable[[str], float | None], now: float) -> dict[str, Any]:
    idle = [seconds for gpu in lease.gpus if (seconds := idle_seconds(gpu.uuid)) is not None]
    return {
        "lease_id": lease.id,
        "phase": lease.phase,
        "server": lease.server,
        "server_name": lease.server_name,
        "started_at": round(lease.ready_at or lease.reserved_at),
        "gpus": [_gpu(gpu.uuid, gpu.index, gpu.name, picture) for gpu in lease.gpus],
        # In steps, so that not every second brings news.
        "idle_seconds": int(min(idle) // _IDLE_STEP_SECONDS * _IDLE_STEP_SECONDS) if idle else None,
        "ends_at": lease.ends_at,
        "can_extend": lease.ends_at is not None and not picture.line,
        "notice": _notice(lease, now),
    }


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


def _notice(lease: Held, now: float) -> dict[str, Any] | None:
    """Return what the holder should know now: that the GPU is idle, or that the time is nearly over."""
    if lease.warned_at is not None:
        return {
            "kind": "idle",
            "text": "Your GPU has been idle while others wait. It is taken back unless you use or keep it.",
            "deadline": lease.warned_at + IDLE_WARNING_SECONDS,
            "can_keep": lease.kept_at is None,
        }
    if lease.ends_at is not None and lease.ends_at - now <= LENGTH_WARNING_SECONDS:
        return {
            "kind": "length",
            "text": "Your session reaches its longest time. Save your work; it is stopped then.",
            "deadline": lease.ends_at,
            "can_keep": False,
        }
    return None
