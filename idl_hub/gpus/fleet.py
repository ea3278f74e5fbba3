"""The hub's picture of the GPUs. On one machine it reads NVML in-process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from idl_hub.gpus import placement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from idl_hub.gpus.placement import Choice, GPUStanding, NoGPU, Rules
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
    """

    def __init__(self, sources: Mapping[str, Readings], rules: Rules, clock: Callable[[], float] = time.time) -> None:
        self._sources = sources
        self._rules = rules
        self._clock = clock

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
        return placement.standings(self.servers(), holders, self._rules, self._clock())

    def choose(self, holders: Mapping[str, str], gpu_count: int, hosts: frozenset[str]) -> Choice | NoGPU:
        """Choose among the servers in `hosts`; a server without readings can still hold a CPU session."""
        servers = [server for server in self.servers() if server.server in hosts]
        return placement.choose(servers, holders, gpu_count, self._rules, self._clock())
