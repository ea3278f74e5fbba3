"""What the map shows at one moment, as JSON-ready values: pure functions over readings, standings and records.

Values are rounded to what a person can see, so that a picture changes only where a viewer would notice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from idl_hub.gpus import reclaim
from idl_hub.gpus.line import Outlook, TicketState, expectation, positions
from idl_hub.gpus.members import Member
from idl_hub.gpus.placement import State
from idl_hub.gpus.service import ORPHAN
from idl_hub.web import silence

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from idl_hub.gpus.line import Ticket
    from idl_hub.gpus.placement import GPUStanding
    from idl_hub.gpus.reading import GPU, Disk, ServerFigures, ServerReading
    from idl_hub.web.records import Held, Records

_MIB, _GIB = 2**20, 2**30
_IDLE_AFTER_SECONDS = 60
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


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long things may take, from the settings."""

    policy: reclaim.Policy
    open_within_seconds: float
    silence: silence.Terms = field(default_factory=silence.Terms)


@dataclass(frozen=True, slots=True)
class Moment:
    """All that a picture is made from."""

    now: float
    """Seconds since 1970."""
    names: Sequence[str]
    """All servers."""
    faults: Mapping[str, str]
    """Server -> why it has no newer reading."""
    readings: Sequence[ServerReading]
    standings: Sequence[GPUStanding]
    records: Records
    curve: Callable[[str | None], tuple[int | None, ...]]
    """From a GPU's UUID to its last hour, in percent, minute by minute."""
    idle_since: Callable[[Sequence[str]], float | None]
    """From UUIDs to since when all of these GPUs are idle."""
    without_gpus: Collection[str] = frozenset()
    """Servers that have no GPUs, so that nobody reads them."""


def paint(moment: Moment, terms: Terms) -> Picture:
    """Return the picture of this moment."""
    holders = {gpu.uuid: lease for lease in moment.records.leases for gpu in lease.gpus}
    excluded = {mark.target for mark in moment.records.marks if mark.kind == "gpu"}
    orphans = {mark.target for mark in moment.records.marks if mark.kind == ORPHAN}
    gpus = {}
    for standing in moment.standings:
        key = gpu_key(standing.server, standing.gpu.uuid, standing.gpu.index)
        tile = _tile(standing, holders.get(key), moment.curve(standing.gpu.uuid))
        gpus[key] = tile | {"excluded": key in excluded, "orphan": key in orphans}
    return Picture(_servers(moment), gpus, _line(moment, terms), _totals(moment))


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


def _servers(moment: Moment) -> dict[str, dict[str, Any]]:
    drained = {mark.target: mark for mark in moment.records.marks if mark.kind == "server"}
    sessions = Counter(lease.server for lease in moment.records.leases)
    free = Counter(standing.server for standing in moment.standings if standing.state is State.FREE)
    stale = {standing.server for standing in moment.standings if standing.state is State.UNKNOWN}
    read = {reading.server: reading for reading in moment.readings}
    members = {member.name: member for member in moment.records.members}
    servers = {}
    for name in sorted({*moment.names, *read, *members}):
        reading, mark = read.get(name), drained.get(name)
        member = members.get(name) or Member(name, None)
        # Without GPUs there is nothing to read; whether its engine answers is all there is to know.
        has_gpus = name not in moment.without_gpus
        read_well = not has_gpus or (reading is not None and reading.health.ok and name not in stale)
        servers[name] = {
            "healthy": read_well and member.fault is None,
            "health": member.trouble or (_health(reading, moment.faults.get(name, "")) if has_gpus else "ok"),
            "has_gpus": has_gpus,
            "address": member.settings.address if member.settings else None,
            "leaving": member.leaving,
            "engine_version": member.engine_version,
            "engine_silent_since": round(member.silent_since) if member.silent_since else None,
            "engine_fault": member.fault,
            "agent_fault": moment.faults.get(name) or None,
            "last_reading_at": round(reading.taken_at) if reading and name in stale else None,
            "drained": {"reason": mark.reason, "by": mark.by, "since": round(mark.since)} if mark else None,
            "sessions": sessions[name],
            "free": free[name],
            "gpus": len(reading.gpus) if reading else 0,
            "driver_version": reading.driver_version if reading else None,
            "simulated": reading.simulated if reading else False,
            **_figures(reading.figures if reading else None),
        }
    return servers


def _health(reading: ServerReading | None, fault: str) -> str:
    if fault or reading is None:
        return fault or "no reading yet"
    return reading.health.words or reading.health.state.value


def _figures(figures: ServerFigures | None) -> dict[str, Any]:
    ratio = figures.cpu_utilization_ratio if figures else None
    return {
        "cpu_count": figures.cpu_count if figures else None,
        "cpu_utilization_ratio": None if ratio is None else round(ratio, 2),
        "memory_total_bytes": figures.memory_total_bytes if figures else None,
        "memory_available_bytes": figures.memory_available_bytes // _GIB * _GIB if figures else None,
        "disks": [_disk(disk) for disk in figures.disks] if figures else [],
    }


def _disk(disk: Disk) -> dict[str, Any]:
    free = disk.free_bytes
    return {
        "path": disk.path,
        "total_bytes": disk.total_bytes,
        "free_bytes": None if free is None else free // _GIB * _GIB,
    }


def _totals(moment: Moment) -> dict[str, Any]:
    states = Counter(standing.state for standing in moment.standings)
    gpus = len(moment.standings)
    return {
        "gpus": gpus,
        "free": states[State.FREE],
        "taken": states[State.TAKEN],
        "other": gpus - states[State.FREE] - states[State.TAKEN],
        "simulated": any(reading.simulated for reading in moment.readings),
    }


def _line(moment: Moment, terms: Terms) -> tuple[dict[str, Any], ...]:
    numbers = positions(moment.records.tickets)
    # Only a line needs to know when GPUs come free.
    silent = {member.name for member in moment.records.members if member.silent_since is not None}
    # What a silent server holds comes free when it is back, which nobody can foretell.
    leases = [lease for lease in moment.records.leases if numbers and lease.server not in silent]
    ahead = [one for lease in leases for one in _outlooks(lease, moment, terms)]
    return tuple(_place(ticket, numbers, ahead, moment.now, terms) for ticket in moment.records.tickets)


def _outlooks(lease: Held, moment: Moment, terms: Terms) -> tuple[Outlook, ...]:
    session = reclaim.session_of(lease, moment.idle_since([gpu.uuid for gpu in lease.gpus]))
    # A GPU that computed a moment ago is not about to be taken back, whatever the arithmetic says.
    idle = session.idle_since is not None and moment.now - session.idle_since >= _IDLE_AFTER_SECONDS
    idle_ends_at = reclaim.idle_ends_at(session, terms.policy) if idle else None
    return tuple(Outlook(gpu.uuid, lease.ends_at, idle_ends_at) for gpu in lease.gpus)


def _place(
    ticket: Ticket, numbers: Mapping[str, int], ahead: Sequence[Outlook], now: float, terms: Terms
) -> dict[str, Any]:
    position = numbers.get(ticket.id)
    expected = expectation(position, ahead, now) if position is not None else None
    ready_at = ticket.ready_at
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
        "deadline": None if ready_at is None else round(ready_at + terms.open_within_seconds),
    }
