"""Which GPU for this request, and why: pure functions over readings, what is remembered, and leases.

A lease is what holds a GPU; readings find users from outside the hub, leave out sick and unknown
cards, and rank the free ones: least averaged load first, then least memory in use, then the server
with most processor time and memory left and most free cards, then where the student was last, then
the card that people outside the hub used least, then the coolest, then the first name and lowest number.
A session without GPU goes to a server without GPUs where there is one: the others' cores are for those with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

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
class Remembered:
    """What earlier readings told of a GPU."""

    average_utilization_ratio: float | None = None
    """0 to 1, over about a minute; None when nothing is remembered: then the newest reading ranks it."""
    idle_since: float | None = None
    """Since when no kernel was seen to run; seconds since 1970. None when it is not known."""
    sick: str = ""
    """Why it is left out although it answers; empty when it need not be."""
    outside_ratio: float = 0.0
    """0 to 1: of about the last day, the share in which a program outside the hub was on it, whoever held it."""


NOTHING_REMEMBERED = Remembered()
_NO_MEMORY: Mapping[str, Remembered] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for beyond a number of GPUs."""

    memory_free_bytes: int = 0
    """Each GPU must have as much free; one that does not tell fits only when this is 0."""
    servers: frozenset[str] | None = None
    """Servers that the student's groups may use; None: all."""
    last_server: str = ""
    """Where the student was last: better than another one that is as good."""
    sessions: Mapping[str, int] = field(default_factory=dict)
    """Server -> live sessions without a GPU by the ledger: readings lag behind starts."""
    drained_too: bool = False
    """Whether a server that gets no new sessions will do: for who tries out whether it may come back."""


NO_WISH = Wish()


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

    @property
    def words(self) -> str:
        """The whole choice, such as ``gpu05 #3: idle for 40 min, coolest of 6 free ones``."""
        numbers = " ".join(f"#{gpu.index}" for gpu in self.gpus)
        return f"{self.server} {numbers}: {self.reason}" if numbers else f"{self.server}: {self.reason}"


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
    remembered: Mapping[str, Remembered] = _NO_MEMORY,
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
    remembered
        GPU UUID -> what earlier readings told of it.
    """
    view = _View(holders, rules, now, closed, remembered)
    return tuple(view.standing(server, gpu) for server in servers for gpu in server.gpus)


@dataclass(frozen=True, slots=True)
class _View:
    """All that decides what a GPU is to the hub, beside its reading."""

    holders: Mapping[str, str]
    rules: Rules
    now: float
    closed: Closed
    remembered: Mapping[str, Remembered]

    def free(self, server: ServerReading) -> Iterator[GPU]:
        """Yield the server's free GPUs; thousands are looked at for one decision."""
        if server.server in self.closed.servers or self._stale(server):
            return
        holders, closed, remembered = self.holders, self.closed.gpus, self.remembered
        for gpu in server.gpus:
            uuid = gpu.uuid
            if uuid is None or uuid in holders or uuid in closed or not gpu.health.ok:
                continue
            known = remembered.get(uuid)
            if not (known and known.sick) and not self._foreign(gpu):
                yield gpu

    def standing(self, server: ServerReading, gpu: GPU) -> GPUStanding:
        """Say what a GPU is, by the same rules, with the reason."""
        return GPUStanding(server.server, gpu, *self._state(server, gpu))

    def _state(self, server: ServerReading, gpu: GPU) -> tuple[State, str]:
        if gpu.uuid is None:
            return State.UNKNOWN, gpu.health.words or "it never told who it is"
        if gpu.uuid in self.holders:
            return State.TAKEN, f"held by {self.holders[gpu.uuid]}"
        closed = self.closed
        if server.server in closed.servers or gpu.uuid in closed.gpus:
            return State.CLOSED, closed.servers.get(server.server) or closed.gpus.get(gpu.uuid) or "out of service"
        if self._stale(server):
            return State.UNKNOWN, self._why_stale(server)
        if not gpu.health.ok:
            return State.SICK, gpu.health.words or gpu.health.state.value
        if sick := self.remembered.get(gpu.uuid, NOTHING_REMEMBERED).sick:
            return State.SICK, sick
        if foreign := self._foreign(gpu):
            return State.FOREIGN, foreign
        return State.FREE, "free"

    def _stale(self, server: ServerReading) -> bool:
        return abs(self.now - server.taken_at) > self.rules.reading_max_age_seconds

    def _why_stale(self, server: ServerReading) -> str:
        age_seconds = self.now - server.taken_at
        if age_seconds < 0:
            return f"its server's clock is {-age_seconds:.0f} s ahead of the hub's"
        return f"no reading for {age_seconds:.0f} s"

    def _foreign(self, gpu: GPU) -> str:
        """Who uses a GPU that nobody holds; by its newest reading alone, since averages outlive their sessions."""
        if gpu.utilization_ratio is not None and gpu.utilization_ratio >= self.rules.busy_utilization_ratio:
            return f"{gpu.utilization_ratio:.0%} busy by somebody outside the hub"
        if gpu.memory_used_bytes is not None and gpu.memory_used_bytes > self.rules.busy_memory_bytes:
            return f"{gpu.memory_used_bytes / 2**30:.1f} GiB in use by somebody outside the hub"
        if gpu.processes:
            pids = ", ".join(str(process.pid) for process in gpu.processes)
            return f"a program outside the hub runs on it (process {pids})"
        return ""


def choose(
    servers: Sequence[ServerReading],
    holders: Mapping[str, str],
    gpu_count: int,
    rules: Rules,
    now: float,
    closed: Closed = NOTHING_CLOSED,
    remembered: Mapping[str, Remembered] = _NO_MEMORY,
    wish: Wish = NO_WISH,
    without_gpus: Collection[str] = (),
) -> Choice | NoGPU:
    """Choose `gpu_count` GPUs of one server, or a server for a session without GPU (count 0).

    Parameters
    ----------
    without_gpus
        Names of servers that have no GPUs, and so no readings.

    Returns
    -------
    Choice or NoGPU
        Never a GPU that has a holder, is sick, unknown, out of service, or used from outside.
    """
    view = _View(holders, rules, now, closed, remembered)
    places = [_Place(server, list(view.free(server)), wish) for server in servers if _open(server.server, closed, wish)]
    if gpu_count == 0:
        if plain := [name for name in without_gpus if _open(name, closed, wish)]:
            return Choice(min(plain, key=lambda name: _rank_plain(name, wish)), (), "a session without GPU")
        if not places:
            return NoGPU("no server is in service", standings(servers, holders, rules, now, closed, remembered))
        return Choice(min(places, key=_Place.rank).server.server, (), "a session without GPU")
    best: tuple[tuple[object, ...], _Place, list[GPU]] | None = None
    for place in places:
        found = place.best(gpu_count, remembered, wish.memory_free_bytes)
        if found and (best is None or found[0] < best[0]):
            best = (found[0], place, found[1])
    if best is None:
        all_standings = standings(servers, holders, rules, now, closed, remembered)
        return NoGPU(_why_none(all_standings, wish), all_standings)
    _, place, chosen = best
    free = [gpu for other in places for gpu in other.free]
    return Choice(
        place.server.server,
        tuple(ChosenGPU(str(gpu.uuid), gpu.index, gpu.name or "GPU") for gpu in chosen),
        _why(chosen, free, remembered, now),
    )


def _open(server: str, closed: Closed, wish: Wish) -> bool:
    return server not in closed.servers and (wish.servers is None or server in wish.servers)


def _rank_plain(server: str, wish: Wish) -> tuple[int, bool, str]:
    """Order servers without GPUs: fewest sessions, where the student was last, first name."""
    return wish.sessions.get(server, 0), server != wish.last_server, server


class _Place:
    """A server that may be chosen, with its free GPUs."""

    __slots__ = ("_wish", "free", "server")

    def __init__(self, server: ServerReading, free: list[GPU], wish: Wish) -> None:
        self.server = server
        self.free = free
        self._wish = wish

    def rank(self) -> tuple[int, int, bool, str]:
        """Order servers: most left of what is scarcest, most free cards, where the student was last, first name."""
        name, wish = self.server.server, self._wish
        return -_room(self.server), wish.sessions.get(name, 0) - len(self.free), name != wish.last_server, name

    def best(
        self, count: int, remembered: Mapping[str, Remembered], memory_free_bytes: int
    ) -> tuple[tuple[object, ...], list[GPU]] | None:
        """Return the best `count` free GPUs and their rank among those of other servers; None when too few fit."""
        fitting = self.free
        if memory_free_bytes:
            fitting = [gpu for gpu in fitting if _memory_free_bytes(gpu) >= memory_free_bytes]
        if len(fitting) < count:
            return None
        ranked = [(*_load(gpu, remembered), _visits(gpu, remembered), _heat(gpu), gpu.index, gpu) for gpu in fitting]
        ranked.sort(key=_without_gpu)
        worst = ranked[count - 1]
        room, free, elsewhere, name = self.rank()
        return (worst[0], worst[1], room, free, elsewhere, worst[2], worst[3], name), [
            entry[-1] for entry in ranked[:count]
        ]


def _without_gpu(entry: tuple[float, int, int, int, int, GPU]) -> tuple[float, int, int, int, int]:
    return entry[:5]


def _load(gpu: GPU, remembered: Mapping[str, Remembered]) -> tuple[float, int]:
    """Order free GPUs: least averaged load, least memory; what is not known counts as the least good."""
    known = remembered.get(gpu.uuid or "")
    ratio = gpu.utilization_ratio if known is None else known.average_utilization_ratio
    memory = gpu.memory_used_bytes
    return 1.0 if ratio is None else round(ratio, 2), 2**63 if memory is None else memory // 2**24


def _visits(gpu: GPU, remembered: Mapping[str, Remembered]) -> int:
    """Return in twentieths how much people outside the hub used it: where they were, they come again."""
    known = remembered.get(gpu.uuid or "")
    return 0 if known is None else int(20 * known.outside_ratio)


def _heat(gpu: GPU) -> int:
    return 1000 if gpu.temperature_celsius is None else int(gpu.temperature_celsius)


def _memory_free_bytes(gpu: GPU) -> int:
    if gpu.memory_free_bytes is not None:
        return gpu.memory_free_bytes
    if gpu.memory_total_bytes is None or gpu.memory_used_bytes is None:
        return 0
    return gpu.memory_total_bytes - gpu.memory_used_bytes


def _room(server: ServerReading) -> int:
    """Return how many quarters are left of what is scarcest, processor time or memory; 0 when it does not tell.

    No finer: a server must not lose a student to another one over a fleeting per cent of load.
    """
    figures = server.figures
    if figures is None or figures.cpu_utilization_ratio is None or not figures.memory_total_bytes:
        return 0
    left = min(1 - figures.cpu_utilization_ratio, figures.memory_available_bytes / figures.memory_total_bytes)
    return int(4 * left)


def _why(chosen: list[GPU], free: list[GPU], remembered: Mapping[str, Remembered], now: float) -> str:
    gpu = chosen[0]
    facts = []
    known = remembered.get(gpu.uuid or "", NOTHING_REMEMBERED)
    if gpu.utilization_ratio is not None:
        idle_minutes = 0 if known.idle_since is None else int((now - known.idle_since) / 60)
        if gpu.utilization_ratio >= 0.01:
            facts.append(f"{gpu.utilization_ratio:.0%} busy")
        else:
            facts.append(f"idle for {_minutes(idle_minutes)}" if idle_minutes else "idle")
    if gpu.temperature_celsius is not None:
        facts.append(f"{gpu.temperature_celsius:.0f} °C")
    if len(free) == len(chosen):
        facts.append("the last free one" if len(free) == 1 else "the last free ones")
    elif len(chosen) == 1 and all(_heat(gpu) < _heat(other) for other in free if other is not gpu):
        facts.append(f"coolest of {len(free)} free ones")
    else:
        facts.append(f"best of {len(free)} free ones")
    return ", ".join(facts)


def _minutes(minutes: int) -> str:
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.0f} h"


def _why_none(all_standings: Sequence[GPUStanding], wish: Wish) -> str:
    if not all_standings:
        return "no GPU is known to the hub"
    counts = dict.fromkeys(State, 0)
    for standing in all_standings:
        counts[standing.state] += 1
    enough = f" with {wish.memory_free_bytes / 2**30:.1f} GiB of memory" if wish.memory_free_bytes else ""
    words = {
        State.TAKEN: "taken",
        State.FOREIGN: "used from outside the hub",
        State.SICK: "out of order",
        State.UNKNOWN: "without a reading",
        State.CLOSED: "out of service",
        State.FREE: f"free, but not enough{enough} on one server",
    }
    if wish.servers is not None:
        words[State.FREE] += " that the group may use"
    parts = [f"{count} {words[state]}" for state, count in counts.items() if count]
    return f"of {len(all_standings)} GPUs: {', '.join(parts)}"
