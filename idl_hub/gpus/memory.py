"""What the hub remembers of every GPU, in bounded memory, and whose a GPU is when two servers claim it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from idl_hub.gpus.health import HealthMemory, HealthRules
from idl_hub.gpus.history import DAY_SECONDS, History, Point, averaged
from idl_hub.gpus.placement import NOTHING_REMEMBERED, Remembered
from idl_hub.gpus.reading import Health, HealthState, ProcessOrigin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idl_hub.gpus.reading import GPU, ServerReading

BUSY_RATIO = 0.01
"""At or above this a kernel ran: the GPU was not idle."""
MOST_GPUS_OF_A_SERVER = 128
"""An agent that invents ever new UUIDs makes the hub forget the ones it named first, and no more."""


class _GPUMemory:
    """One GPU over time."""

    def __init__(self, server: str, rules: HealthRules) -> None:
        self.server = server
        self.health = HealthMemory(rules)
        self.history = History()
        self._average: float | None = None
        self._outside: float | None = 0.0
        self._idle_since: float | None = None
        self._read_at: float | None = None

    def follow(self, gpu: GPU, at: float) -> None:
        seconds = 0.0 if self._read_at is None else at - self._read_at
        self._average = averaged(self._average, gpu.utilization_ratio, seconds)
        self._outside = averaged(self._outside, _used_from_outside(gpu), seconds, DAY_SECONDS)
        if gpu.utilization_ratio is None:
            self._idle_since = None
        elif gpu.utilization_ratio >= BUSY_RATIO or self._idle_since is None:
            self._idle_since = at
        self._read_at = at
        self.history.add(at, gpu.utilization_ratio, gpu.memory_used_bytes)
        self.health.follow(gpu, at)

    def remembered(self) -> Remembered:
        return Remembered(self._average, self._idle_since, self.health.sick, self._outside or 0.0)


class FleetMemory:
    """All GPUs over time. Used by one thread at a time; single values of `remembered` may be read by any."""

    def __init__(self, rules: HealthRules) -> None:
        self._rules = rules
        self._gpus: dict[str, _GPUMemory] = {}
        self._listed: dict[str, frozenset[str]] = {}
        """Server -> its GPUs in its newest reading."""
        self._known: dict[str, dict[str, None]] = {}
        """Server -> its GPUs that are remembered, those named first in front."""
        self._cleared: dict[str, float] = {}
        self._remembered: dict[str, Remembered] = {}

    def follow(self, reading: ServerReading) -> ServerReading:
        """Take in a server's new reading; return it without the GPUs that another server has.

        A UUID belongs to the server that named it first, for as long as that server names it. Whoever
        else names it is in error, and must not have sessions sent to it.
        """
        server = reading.server
        told = {gpu.uuid for gpu in reading.gpus if gpu.uuid is not None}
        others = {uuid: owner for uuid in told if (owner := self._owner(uuid, server))}
        self._listed[server] = frozenset(told - others.keys())
        for gpu in reading.gpus:
            if gpu.uuid is not None and gpu.uuid not in others:
                memory = self._memory_of(gpu.uuid, server)
                memory.follow(gpu, reading.taken_at)
                self._remembered[gpu.uuid] = memory.remembered()
        self._forget_some(server)
        if not others:
            return reading
        return replace(reading, gpus=tuple(_unless_of_another(gpu, others) for gpu in reading.gpus))

    def leave(self, server: str) -> None:
        """Note that a server is read no more, so that its GPUs may be found in another one."""
        self._listed.pop(server, None)

    @property
    def remembered(self) -> Mapping[str, Remembered]:
        """GPU UUID -> what placement should know of it, always as of now."""
        return self._remembered

    def needs_admin(self) -> tuple[tuple[str, str], ...]:
        """Return (GPU UUID, why) of those that an admin must look at before they are given out again."""
        return tuple((uuid, why) for uuid, memory in self._gpus.items() if (why := memory.health.needs_admin))

    def clear(self, uuid: str, at: float) -> None:
        """Note that an admin put this GPU into service again at this time; it may be one not read yet."""
        self._cleared[uuid] = max(at, self._cleared.get(uuid, 0.0))
        memory = self._gpus.get(uuid)
        if memory is not None:
            memory.health.clear(at)
            self._remembered[uuid] = memory.remembered()

    def history(self, uuid: str, now: float) -> tuple[Point, ...]:
        """Return the last hour of a GPU, oldest first; empty for one that is not known."""
        memory = self._gpus.get(uuid)
        return memory.history.points(now) if memory else ()

    def note(self, uuid: str) -> str:
        """Return what is worth knowing of a GPU that is well; empty for nothing."""
        memory = self._gpus.get(uuid)
        return memory.health.note if memory else ""

    def average(self, uuid: str) -> float | None:
        """Return the utilization averaged over about a minute, 0 to 1."""
        return self._remembered.get(uuid, NOTHING_REMEMBERED).average_utilization_ratio

    def _owner(self, uuid: str, claimant: str) -> str:
        """Return the other server that has this GPU, or nothing."""
        memory = self._gpus.get(uuid)
        if memory is None or memory.server == claimant or uuid not in self._listed.get(memory.server, ()):
            return ""
        return memory.server

    def _memory_of(self, uuid: str, server: str) -> _GPUMemory:
        memory = self._gpus.get(uuid)
        if memory is None:
            memory = self._gpus[uuid] = _GPUMemory(server, self._rules)
            memory.health.clear(self._cleared.get(uuid, 0.0))
        elif memory.server != server:  # the card was moved
            del self._known[memory.server][uuid]
            memory.server = server
        self._known.setdefault(server, {})[uuid] = None
        return memory

    def _forget_some(self, server: str) -> None:
        known = self._known.get(server, {})
        too_many = len(known) - MOST_GPUS_OF_A_SERVER
        if too_many <= 0:
            return
        for uuid in [uuid for uuid in known if uuid not in self._listed[server]][:too_many]:
            del known[uuid], self._gpus[uuid], self._remembered[uuid]


def _used_from_outside(gpu: GPU) -> float | None:
    """Return whether a program that is in no container runs on it, whoever holds it; None when it is not known."""
    if gpu.processes is None:
        return None
    return float(any(process.origin is ProcessOrigin.OUTSIDE for process in gpu.processes))


def _unless_of_another(gpu: GPU, others: Mapping[str, str]) -> GPU:
    owner = others.get(gpu.uuid or "")
    if not owner:
        return gpu
    words = f"{owner} has a GPU with this UUID ({gpu.uuid}), too; one of the two agents is wrong"
    return replace(gpu.without_values(Health(HealthState.ERROR, words=words)), uuid=None)
