"""The hub's picture of all GPUs: the newest reading of every server, what is remembered, and what follows.

Each server is read by an agent of its own, or, on one machine, in this process. What is too old to be
believed is unknown, which is not free.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from idl_hub.gpus import placement
from idl_hub.gpus.figures import FigureReader
from idl_hub.gpus.fleet_agent import AgentClient
from idl_hub.gpus.health import HealthRules
from idl_hub.gpus.memory import FleetMemory
from idl_hub.gpus.nvml import Nvml
from idl_hub.gpus.placement import NO_WISH, Rules
from idl_hub.gpus.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from idl_hub.gpus.history import Point
    from idl_hub.gpus.placement import Choice, Closed, GPUStanding, NoGPU, Wish
    from idl_hub.gpus.reading import ServerReading
    from idl_hub.settings import Settings
    from idl_hub.settings_servers import AgentSettings, ServerSettings

log = logging.getLogger(__name__)

_FOLLOW_SECONDS = 1.0


class Readings(Protocol):
    """Where readings of one server come from; `Sampler` is one."""

    def latest(self) -> ServerReading | None:
        """Return the newest reading at once, or None before the first."""


@runtime_checkable
class Source(Readings, Protocol):
    """Readings that somebody must fetch; `AgentClient` is one."""

    fault: str
    """Why there is no newer reading, in words; empty when all is well."""

    async def run(self) -> None:
        """Fetch readings until cancelled."""

    async def wait_first(self, timeout: float) -> ServerReading:
        """Return the newest reading as soon as there is one; TimeoutError when none came in time."""


class ThisMachine:
    """The GPUs of this machine, read in this process while `run` runs."""

    fault = ""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def latest(self) -> ServerReading | None:
        """Return the newest reading at once, or None before the first."""
        return self._sampler.latest()

    async def wait_first(self, timeout: float) -> ServerReading:
        """Return the newest reading as soon as there is one; TimeoutError when none came in time."""
        return await self._sampler.wait_first(timeout)

    async def run(self) -> None:
        """Read until cancelled; once only."""
        self._sampler.start()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._sampler.stop()


class Fleet:
    """All servers' newest readings, and what follows from them. May be asked from any thread.

    Parameters
    ----------
    sources
        Server name -> where its readings come from. Those that are a `Source` are run by `run`. None: it has no
        GPUs, and nobody reads it.
    rules
        When a reading is too old, and when a GPU counts as used from outside.
    clock
        Seconds since 1970.
    closed
        What is out of service now.
    health_rules
        When a GPU that answers is left out all the same.
    """

    def __init__(
        self,
        sources: Mapping[str, Readings | None],
        rules: Rules,
        clock: Callable[[], float] = time.time,
        closed: Callable[[], Closed] = lambda: placement.NOTHING_CLOSED,
        health_rules: HealthRules | None = None,
    ) -> None:
        self._sources: dict[str, Readings] = {}
        self._names: tuple[str, ...] = ()
        self._agents: dict[str, tuple[AgentSettings, AgentClient]] = {}
        self._rules = rules
        self._clock = clock
        self._closed = closed
        self._lock = threading.Lock()
        self._memory = FleetMemory(health_rules or HealthRules())
        self._taken_in: dict[str, ServerReading] = {}
        """Server name -> the newest reading as its source gave it."""
        self._servers: dict[str, ServerReading] = {}
        """The same, without GPUs that another server has."""
        self._changed = asyncio.Event()
        self.set_sources(sources)

    def set_sources(self, sources: Mapping[str, Readings | None]) -> None:
        """Read these servers from now on, and no others; what is known of a source that stays is kept.

        While `run` runs, only from its loop.
        """
        read = {name: source for name, source in sources.items() if source is not None}
        with self._lock:
            for name in [name for name, source in self._sources.items() if read.get(name) is not source]:
                self._taken_in.pop(name, None)
                self._servers.pop(name, None)
                self._memory.leave(name)
            self._sources, self._names = read, tuple(sources)
        self._changed.set()

    def follow(self, servers: Iterable[ServerSettings]) -> None:
        """Read the servers that settings describe, as `set_sources` does."""
        sources: dict[str, Readings | None] = {}
        agents: dict[str, tuple[AgentSettings, AgentClient]] = {}
        for server in servers:
            sources[server.name] = None  # without an agent it has no GPUs
            if server.agent is not None:
                known = self._agents.get(server.name)
                same = known is not None and known[0] == server.agent
                client = known[1] if known and same else _agent(server.name, server.agent, self._clock)
                agents[server.name], sources[server.name] = (server.agent, client), client
        self._agents = agents
        self.set_sources(sources)

    async def run(self) -> None:
        """Fetch readings and remember them, until cancelled."""
        async with asyncio.TaskGroup() as group:
            running: dict[Source, asyncio.Task[None]] = {}
            while True:
                self._changed.clear()
                wanted = [source for source in self._sources.values() if isinstance(source, Source)]
                for source in [source for source in running if source not in wanted]:
                    running.pop(source).cancel()
                for source in wanted:
                    if source not in running:
                        running[source] = group.create_task(source.run())
                self.servers()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_FOLLOW_SECONDS):
                        await self._changed.wait()

    async def wait_first(self, timeout_seconds: float) -> bool:
        """Wait until every server was read once; False when some were not in time."""
        waiting = [
            asyncio.create_task(source.wait_first(timeout_seconds))
            for source in self._sources.values()
            if isinstance(source, Source)
        ]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        return not any(isinstance(one, BaseException) for one in found)

    def servers(self) -> tuple[ServerReading, ...]:
        """Return the newest reading of every server that has given one."""
        with self._lock:
            for name, source in self._sources.items():
                reading = source.latest()
                if reading is not None and reading is not self._taken_in.get(name):
                    self._taken_in[name] = reading
                    self._servers[name] = self._memory.follow(reading)
            return tuple(self._servers.values())

    @property
    def names(self) -> tuple[str, ...]:
        """All servers, in the order of the settings, whether they are read or not."""
        return self._names

    @property
    def without_gpus(self) -> frozenset[str]:
        """Servers that have no GPUs, so that there is nothing to read."""
        return frozenset(self._names) - self._sources.keys()

    def faults(self) -> dict[str, str]:
        """Return server name -> why it has no newer reading, in words, of those that have a fault."""
        faults = {name: source.fault for name, source in self._sources.items() if isinstance(source, Source)}
        return {name: fault for name, fault in faults.items() if fault}

    @property
    def simulated(self) -> bool:
        """Whether any card shown is a simulated one."""
        return any(server.simulated for server in self.servers())

    def standings(self, holders: Mapping[str, str]) -> tuple[GPUStanding, ...]:
        """Say of every GPU whether it can be given out, and why not."""
        servers = self.servers()
        return placement.standings(
            servers, holders, self._rules, self._clock(), self._closed(), self._memory.remembered
        )

    def choose(
        self, holders: Mapping[str, str], gpu_count: int, hosts: frozenset[str], wish: Wish = NO_WISH
    ) -> Choice | NoGPU:
        """Choose among the servers in `hosts`; for a session without GPU one without readings will do as well."""
        servers = [server for server in self.servers() if server.server in hosts]
        closed, remembered = self._closed(), self._memory.remembered
        if wish.drained_too:
            closed = replace(closed, servers={})
        plain = self.without_gpus & hosts
        choice = placement.choose(
            servers, holders, gpu_count, self._rules, self._clock(), closed, remembered, wish, plain
        )
        if gpu_count == 0 and isinstance(choice, placement.NoGPU):
            allowed = hosts if wish.servers is None else hosts & wish.servers
            unread = sorted(allowed - {server.server for server in servers} - closed.servers.keys())
            if unread:
                return placement.Choice(unread[0], (), "a session without GPU")
        return choice

    def most_gpus(self) -> int:
        """Return how many GPUs the largest server has."""
        return max((len(server.gpus) for server in self.servers()), default=0)

    def history(self, uuid: str) -> tuple[Point, ...]:
        """Return the last hour of a GPU in points of ten seconds, oldest first; empty for one that is not known."""
        with self._lock:
            return self._memory.history(uuid, self._clock())

    def average_utilization_ratio(self, uuid: str) -> float | None:
        """Return a GPU's utilization averaged over about a minute, 0 to 1; None when it is not known."""
        return self._memory.average(uuid)

    def note(self, uuid: str) -> str:
        """Return what is worth knowing of a GPU that is well, such as the last error of a program; or nothing."""
        with self._lock:
            return self._memory.note(uuid)

    def needs_admin(self) -> tuple[tuple[str, str], ...]:
        """Return (GPU UUID, why) of those to be taken out of service until an admin has looked at them.

        They are left out here all the same, but this memory ends with the process.
        """
        self.servers()
        with self._lock:
            return self._memory.needs_admin()

    def clear(self, uuid: str, at: float | None = None) -> None:
        """Note that an admin put a GPU into service again, now or at a time: what happened before counts no more.

        To be called again after a restart with the time that is on record, since agents go on to report
        what happened before.
        """
        with self._lock:
            self._memory.clear(uuid, self._clock() if at is None else at)


def from_settings(
    settings: Settings,
    closed: Callable[[], Closed] = lambda: placement.NOTHING_CLOSED,
    clock: Callable[[], float] = time.time,
) -> Fleet:
    """Return the fleet that the settings describe; it reads nothing before `Fleet.run`."""
    gpus = settings.gpus
    rules = Rules(
        busy_utilization_ratio=gpus.busy_utilization_ratio,
        busy_memory_bytes=gpus.busy_memory,
        reading_max_age_seconds=gpus.reading_max_age_seconds,
    )
    sources: dict[str, Readings] = {}
    if not settings.servers:
        library = gpus.simulator_library if gpus.simulated else None
        nvml = Nvml(gpus.server_name, library=library, watch_xids=True)
        sources = {gpus.server_name: ThisMachine(Sampler(nvml, figures=FigureReader()))}
    health_rules = HealthRules(temperature_limit_celsius=gpus.temperature_limit_celsius)
    fleet = Fleet(sources, rules, clock, closed, health_rules)
    if settings.servers:
        fleet.follow(settings.servers)
    return fleet


def _agent(name: str, agent: AgentSettings, clock: Callable[[], float]) -> AgentClient:
    return AgentClient(name, agent.url, agent.token_file, agent.ca_file, clock=clock)
