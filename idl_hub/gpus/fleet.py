"""The hub's picture of the GPUs. On one machine it reads NVML in-process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from idl_hub.gpus import placement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from idl_hub.gpus.placement import Choice, Closed, GPUStanding, NoGPU, Rules
    from idl_hub.gpus.reading import ServerReading


class Readings(Protocol):
    """Where readings of one server come from; `Sampler` is one."""

    def latest(self) -> ServerReading | None:
        """Return the newest reading at once, or None before the first."""


class Fleet:
    """All servers' newest readings, and what follows from them.

    Parameters
    ----------
    sources
        Server name -> where its readings come from.
    clock
        Seconds since 1970.
    closed
        What is out of service now.
    """

    def __init__(
        self,
        sources: Mapping[str, Readings],
        rules: Rules,
        clock: Callable[[], float] = time.time,
        closed: Callable[[], Closed] = lambda: placement.NOTHING_CLOSED,
    ) -> None:
        self._sources = sources
        self._rules = rules
        self._clock = clock
        self._closed = closed

    def servers(self) -> tuple[ServerReading, ...]:
        """Return the newest reading of every server that has given one."""
        readings = (source.latest() for source in self._sources.values())
        return tuple(reading for reading in readings if reading is not None)

    @property
    def simulated(self) -> bool:
        """Whether any card shown is a simulated one."""
        return any(server.simulated for server in self.servers())

    def standings(self, holders: Mapping[str, str]) -> tuple[GPUStanding, ...]:
        """Say of every GPU whether it can be given out, and why not."""
        return placement.standings(self.servers(), holders, self._rules, self._clock(), self._closed())

    def choose(self, holders: Mapping[str, str], gpu_count: int, hosts: frozenset[str]) -> Choice | NoGPU:
        """Choose among the servers in `hosts`; for a session without GPU one without readings will do as well."""
        servers = [server for server in self.servers() if server.server in hosts]
        closed = self._closed()
        choice = placement.choose(servers, holders, gpu_count, self._rules, self._clock(), closed)
        unread = sorted(hosts - {server.server for server in servers} - closed.servers.keys())
        if gpu_count == 0 and isinstance(choice, placement.NoGPU) and unread:
            return placement.Choice(unread[0], (), "a session without GPU")
        return choice

    def most_gpus(self) -> int:
        """Return how many GPUs the largest server has."""
        return max((len(server.gpus) for server in self.servers()), default=0)
