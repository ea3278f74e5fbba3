"""What the map shows at one moment, as JSON-ready values: pure functions over readings, standings and records.

Values are rounded to what a person can see, so that a picture changes only where a viewer would notice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from idl_hub.gpus.line import OPEN_WITHIN_SECONDS, Outlook, TicketState, expectation, positions
from idl_hub.gpus.placement import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from idl_hub.gpus.line import Ticket
    from idl_hub.gpus.placement import GPUStanding
    from idl_hub.gpus.reading import GPU, ServerFigures, ServerReading
    from idl_hub.web.history import History
    from idl_hub.web.records import Held, Records

_MIB, _GIB = 2**20, 2**30
IDLE_WARNING_SECONDS = 300
"""From the warning that an idle GPU is taken back to its end."""
_STARTED = {
    TicketState.OFFERED: "a GPU is reserved, the server is starting",
    TicketState.READY: "the server is ready to be opened",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything at one moment; each part maps a key to the values shown for it."""

    servers: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    gpus: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    line: tuple[dict[str, Any], ...] = ()
    totals: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as `GET api/fleet` does."""
        return {"servers": self.servers, "gpus": self.gpus, "line": self.line, "totals": self.totals}


def gpu_key(server: str, uuid: str | None, index: int) -> str:
    """Return what names a GPU on the map: its UUID, or its place while it never told one."""
    return uuid or f"{server}#{index}"


def paint(
    readings: Sequence[ServerReading],
    standings: Sequence[GPUStanding],
    records: Records,
    history: History,
    now: float,
) -> Picture:
    """Return the picture of this moment; `now` is in seconds since 1970."""
    holders = {gpu.uuid: lease for lease in records.leases for gpu in lease.gpus}
    excluded = {mark.target for mark in records.marks if mark.kind == "gpu"}
    gpus = {}
    for standing in standings:
        key = gpu_key(standing.server, standing.gpu.uuid, standing.gpu.index)
        gpus[key] = _tile(standing, holders.get(key), history.points(key)) | {"closed": key in excluded}
    return Picture(_servers(readings, standings, records), gpus, _line(records, now), _totals(readings, standings))


def _tile(standing: GPUStanding, lease: Held | None, points: Sequence[int | None]) -> dict[str, Any]:
    gpu = standing.gpu
    return {
        "server": standing.server,
        "uuid": gpu.uuid,
        "index": gpu.index,
        "name": gpu.name,
        "state": standing.state.name.lower(),
        "reason": standing.reason,
        "health": gpu.health.state.value,
        **measured(gpu),
        "holder": lease.holder if lease else None,
        "lease_id": lease.id if lease else None,
        "phase": lease.phase if lease else None,
        "since": round(lease.reserved_at) if lease else None,
        "utilization_percent_by_minute": points,
    }


def measured(gpu: GPU) -> dict[str, Any]:
    """Return the figures of a `GPU`; None where it does not tell."""
    ratio, used, total = gpu.utilization_ratio, gpu.memory_used_bytes, gpu.memory_total_bytes
    return {
        "utilization_ratio": None if ratio is None else round(ratio, 2),
        "memory_used_bytes": None if used is None else used // _MIB * _MIB,
        "memory_total_bytes": total,
        "temperature_celsius": gpu.temperature_celsius,
    }


def _servers(
    readings: Sequence[ServerReading], standings: Sequence[GPUStanding], records: Records
) -> dict[str, dict[str, Any]]:
    drained = {mark.target: mark for mark in records.marks if mark.kind == "server"}
    sessions = Counter(lease.server for lease in records.leases)
    free = Counter(standing.server for standing in standings if standing.state is State.FREE)
    stale = {standing.server for standing in standings if standing.state is State.UNKNOWN}
    servers = {}
    for reading in sorted(readings, key=lambda reading: reading.server):
        name, mark = reading.server, drained.get(reading.server)
        servers[name] = {
            "health": reading.health.words or reading.health.state.value,
            "healthy": reading.health.ok and name not in stale,
            "last_reading_at": round(reading.taken_at) if name in stale else None,
            "drained": {"reason": mark.reason, "by": mark.by, "since": round(mark.since)} if mark else None,
            "sessions": sessions[name],
            "free": free[name],
            "gpus": len(reading.gpus),
            "driver_version": reading.driver_version,
            **_figures(reading.figures),
            "simulated": reading.simulated,
        }
    return servers


def _figures(figures: ServerFigures | None) -> dict[str, Any]:
    ratio = figures.cpu_utilization_ratio if figures else None
    return {
        "cpu_count": figures.cpu_count if figures else None,
        "cpu_utilization_ratio": None if ratio is None else round(ratio, 2),
        "memory_total_bytes": figures.memory_total_bytes if figures else None,
        "memory_available_bytes": figures.memory_available_bytes // _GIB * _GIB if figures else None,
    }


def _totals(readings: Sequence[ServerReading], standings: Sequence[GPUStanding]) -> dict[str, Any]:
    states = Counter(standing.state for standing in standings)
    return {
        "gpus": len(standings),
        "free": states[State.FREE],
        "taken": states[State.TAKEN],
        "other": len(standings) - states[State.FREE] - states[State.TAKEN],
        "simulated": any(reading.simulated for reading in readings),
    }


def _line(records: Records, now: float) -> tuple[dict[str, Any], ...]:
    numbers = positions(records.tickets)
    ahead = [outlook for lease in records.leases for outlook in outlooks(lease)]
    return tuple(_place(ticket, numbers, ahead, now) for ticket in records.tickets)


def outlooks(lease: Held) -> tuple[Outlook, ...]:
    """Return when each GPU of a lease may come free."""
    idle_ends_at = lease.warned_at + IDLE_WARNING_SECONDS if lease.warned_at is not None else None
    return tuple(Outlook(gpu.uuid, lease.ends_at, idle_ends_at) for gpu in lease.gpus)


def _place(ticket: Ticket, numbers: Mapping[str, int], ahead: Sequence[Outlook], now: float) -> dict[str, Any]:
    position = numbers.get(ticket.id)
    expected = expectation(position, ahead, now) if position is not None else None
    return {
        "id": ticket.id,
        "user": ticket.user,
        "server_name": ticket.server_name,
        "position": position,
        "of": len(numbers),
        "gpu_count": ticket.gpu_count,
        "state": ticket.state.value,
        "since": round(ticket.created_at),
        "expected_at": round(expected.at) if expected and expected.at is not None else None,
        "expected_text": expected.text if expected else _STARTED.get(ticket.state, ""),
        "deadline": round(ticket.ready_at + OPEN_WITHIN_SECONDS) if ticket.ready_at is not None else None,
    }
