"""Which GPU for this request, and why: pure functions over readings and leases.

A lease is what holds a GPU; readings find users from outside the hub, leave out sick and unknown
cards, and rank the free ones: least utilization first, then least memory in use, then coolest,
then the server with most free cards, then the lowest index.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from idl_hub.gpus.reading import GPU, ServerReading


class State(StrEnum):
    """What a GPU is to the hub right now."""

    FREE = "free"
    TAKEN = "taken"
    FOREIGN = "used from outside the hub"
    SICK = "sick"
    UNKNOWN = "unknown"
    CLOSED = "out of service"


@dataclass(frozen=True, slots=True)
class Rules:
    """When a GPU that nobody leased counts as used by somebody outside the hub."""

    busy_utilization_ratio: float = 0.1
    busy_memory_bytes: int = 512 * 2**20
    reading_max_age_seconds: float = 10


@dataclass(frozen=True, slots=True)
class Closed:
    """What an admin took out of service: server name or GPU UUID -> reason in words."""

    servers: Mapping[str, str] = field(default_factory=dict)
    gpus: Mapping[str, str] = field(default_factory=dict)


NOTHING_CLOSED = Closed()


@dataclass(frozen=True, slots=True)
class GPUStanding:
    """One GPU, what it is to the hub, and the reason in words."""

    server: str
    gpu: GPU
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class ChosenGPU:
    """A GPU by its address; slot is 0 while one GPU has one holder."""

    uuid: str
    index: int
    name: str
    slot: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a session goes: a server, its GPUs (none for a CPU session), and why."""

    server: str
    gpus: tuple[ChosenGPU, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class NoGPU:
    """Nothing fits now; `standings` says why for each GPU."""

    reason: str
    standings: tuple[GPUStanding, ...]


def standings(
    servers: Sequence[ServerReading],
    holders: Mapping[str, str],
    rules: Rules,
    now: float,
    closed: Closed = NOTHING_CLOSED,
) -> tuple[GPUStanding, ...]:
    """Say of every GPU whether it can be given out.

    Parameters
    ----------
    servers
        Newest reading of each server.
    holders
        GPU UUID -> who holds it, in words.
    now
        Seconds since 1970, the clock of `ServerReading.taken_at`.
    closed
        What an admin took out of service.
    """
    return tuple(
        GPUStanding(server.server, gpu, *_standing(server, gpu, holders, rules, now, closed))
        for server in servers
        for gpu in server.gpus
    )


def _standing(
    server: ServerReading, gpu: GPU, holders: Mapping[str, str], rules: Rules, now: float, closed: Closed
) -> tuple[State, str]:
    if gpu.uuid is None:
        return State.UNKNOWN, gpu.health.words or "it never told who it is"
    if gpu.uuid in holders:
        return State.TAKEN, f"held by {holders[gpu.uuid]}"
    if why := closed.servers.get(server.server) or closed.gpus.get(gpu.uuid):
        return State.CLOSED, why
    age_seconds = now - server.taken_at
    if age_seconds > rules.reading_max_age_seconds:
        return State.UNKNOWN, f"no reading for {age_seconds:.0f} s"
    if age_seconds < -rules.reading_max_age_seconds:
        return State.UNKNOWN, f"its server's clock is {-age_seconds:.0f} s ahead of the hub's"
    if not gpu.health.ok:
        return State.SICK, gpu.health.words or gpu.health.state.value
    if gpu.utilization_ratio is not None and gpu.utilization_ratio >= rules.busy_utilization_ratio:
        return State.FOREIGN, f"{gpu.utilization_ratio:.0%} busy by somebody outside the hub"
    if gpu.memory_used_bytes is not None and gpu.memory_used_bytes > rules.busy_memory_bytes:
        return State.FOREIGN, f"{gpu.memory_used_bytes / 2**30:.1f} GiB in use by somebody outside the hub"
    if gpu.processes:
        pids = ", ".join(str(process.pid) for process in gpu.processes)
        return State.FOREIGN, f"a program outside the hub runs on it (process {pids})"
    return State.FREE, "free"


def choose(
    servers: Sequence[ServerReading],
    holders: Mapping[str, str],
    gpu_count: int,
    rules: Rules,
    now: float,
    closed: Closed = NOTHING_CLOSED,
) -> Choice | NoGPU:
    """Choose `gpu_count` GPUs of one server, or a server for a session without GPU (count 0).

    Returns
    -------
    Choice or NoGPU
        Never a GPU that has a holder, is sick, unknown, out of service, or used from outside.
    """
    all_standings = standings(servers, holders, rules, now, closed)
    free_of: dict[str, list[GPUStanding]] = {
        server.server: [] for server in servers if server.server not in closed.servers
    }
    for standing in all_standings:
        if standing.state is State.FREE:
            free_of[standing.server].append(standing)
    if gpu_count == 0:
        if not free_of:
            return NoGPU("no server is in service", all_standings)
        # CPU sessions go where most GPUs are taken last: they leave the crowded servers alone.
        return Choice(max(free_of, key=lambda name: len(free_of[name])), (), "a session without GPU")
    fitting = {name: free for name, free in free_of.items() if len(free) >= gpu_count}
    if not fitting:
        return NoGPU(_why_none(all_standings), all_standings)
    ranked = {name: sorted(free, key=_rank)[:gpu_count] for name, free in fitting.items()}
    best = min(ranked, key=lambda name: (_load(ranked[name][0]), -len(fitting[name]), name))
    chosen = ranked[best]
    return Choice(
        best,
        tuple(ChosenGPU(str(s.gpu.uuid), s.gpu.index, s.gpu.name or "GPU") for s in chosen),
        _why(chosen, sum(map(len, free_of.values()))),
    )


def _load(standing: GPUStanding) -> tuple[float, int, int]:
    """Order free GPUs: least utilization, least memory, coolest; what is not known counts as the least good."""
    gpu = standing.gpu
    return (
        1.0 if gpu.utilization_ratio is None else round(gpu.utilization_ratio, 2),
        2**63 if gpu.memory_used_bytes is None else gpu.memory_used_bytes // 2**24,
        1000 if gpu.temperature_celsius is None else int(gpu.temperature_celsius),
    )


def _rank(standing: GPUStanding) -> tuple[tuple[float, int, int], int]:
    return _load(standing), standing.gpu.index


def _why(chosen: list[GPUStanding], free_count: int) -> str:
    gpu = chosen[0].gpu
    facts = []
    if gpu.utilization_ratio is not None:
        facts.append("idle" if gpu.utilization_ratio < 0.01 else f"{gpu.utilization_ratio:.0%} busy")
    if gpu.temperature_celsius is not None:
        facts.append(f"{gpu.temperature_celsius:.0f} °C")
    if free_count == len(chosen):
        facts.append("the last free one" if free_count == 1 else "the last free ones")
    else:
        facts.append(f"best of {free_count} free ones")
    return ", ".join(facts)


def _why_none(all_standings: Sequence[GPUStanding]) -> str:
    if not all_standings:
        return "no GPU is known to the hub"
    counts = {state: sum(s.state is state for s in all_standings) for state in State}
    words = {
        State.TAKEN: "taken",
        State.FOREIGN: "used from outside the hub",
        State.SICK: "out of order",
        State.UNKNOWN: "without a reading",
        State.CLOSED: "out of service",
        State.FREE: "free, but not enough on one server",
    }
    parts = [f"{count} {words[state]}" for state, count in counts.items() if count]
    return f"of {len(all_standings)} GPUs: {', '.join(parts)}"
