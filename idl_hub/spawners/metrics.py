"""The hub's own metrics, beside JupyterHub's at ``/hub/metrics``: line, GPUs, servers, sessions, homes.

A scrape asks nobody: it shows what the hub knows at that moment, and of the tables what was read a few seconds ago.
What is not known is absent, never 0. No metric names a person: metrics are kept for months and seen by whoever sees
the dashboards, while the ledger keeps the names for whom they concern.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jupyterhub.metrics import SERVER_SPAWN_DURATION_SECONDS, ServerSpawnStatus
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from idl_hub import __version__
from idl_hub.gpus.leases import Phase
from idl_hub.gpus.line import TicketState
from idl_hub.gpus.placement import State
from idl_hub.homes.patience import Patience, Silent
from idl_hub.homes.safe import held
from idl_hub.homes.space import disk_of
from idl_hub.homes.store import HomesError, open_homes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from prometheus_client.core import Metric

    from idl_hub.gpus.fleet import Fleet
    from idl_hub.gpus.leases import Lease, Leases
    from idl_hub.gpus.line import Line, Ticket
    from idl_hub.gpus.placement import Closed, GPUStanding
    from idl_hub.homes.space import Disk
    from idl_hub.spawners.keeper import Keeper

log = logging.getLogger("idl_hub.metrics")
READ_EVERY_SECONDS = 5.0
OLD_AFTER_SECONDS = 30.0
"""What the tables told longer ago is not shown any more."""
_LOOK_AT_HOMES_EVERY_SECONDS = 60.0
_HOMES_ANSWER_SECONDS = 10.0

SPAWN_REASONS = (
    "died",
    "homes",
    "host",
    "image",
    "left_behind",
    "no_server",
    "options",
    "process",
    "queued",
    "refused",
    "still_stopping",
    "stopped",
    "taken",
    "unfit",
)
"""Every word in which a start is refused; JupyterHub counts them by it."""
_LIVE = tuple(phase for phase in Phase if phase is not Phase.ENDED)


@dataclass(frozen=True, slots=True)
class Tables:
    """What the tables told at one moment."""

    read_at: float
    """Of a clock that only goes on, in seconds."""
    leases: tuple[Lease, ...]
    tickets: tuple[Ticket, ...]


class HubMetrics(Collector):
    """One per hub: `run` reads now and then, `collect` shows.

    Parameters
    ----------
    closed
        What is out of service now.
    lacking
        Servers without the offered image.
    homes
        The folder of all homes; None where homes are Docker volumes.
    is_alive
        Whether the hub still looks after GPUs and leases.
    reading_max_age_seconds
        An older reading of a server's GPUs is none.
    clock, monotonic
        Seconds since 1970; seconds of a clock that only goes on.
    """

    def __init__(
        self,
        leases: Leases,
        line: Line,
        keeper: Keeper,
        fleet: Fleet,
        closed: Callable[[], Closed],
        lacking: Callable[[], frozenset[str]],
        homes: Path | None,
        is_alive: Callable[[], bool],
        reading_max_age_seconds: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self._line = line
        self._keeper = keeper
        self._fleet = fleet
        self._closed = closed
        self._lacking = lacking
        self._homes = homes
        self._is_alive = is_alive
        self._reading_max_age_seconds = reading_max_age_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._tables: Tables | None = None
        self._homes_disk: Disk | None = None
        self._homes_asked = False
        self._patience = Patience("disk of the homes", 1)
        for reason in SPAWN_REASONS:
            # A series that begins with its first failure shows no increase at it.
            SERVER_SPAWN_DURATION_SECONDS.labels(status=ServerSpawnStatus.failure, reason=reason)

    # -- reading ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read tables and homes until cancelled."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._read_again_and_again())
            if self._homes is not None:
                parts.create_task(self._look_at_homes_again_and_again(self._homes))

    async def _read_again_and_again(self) -> None:
        while True:
            try:
                await self.read()
            except Exception:  # whatever it is, it shows as a database that is down, and sessions go on
                log.exception("The tables could not be read for the metrics; trying again")
            await asyncio.sleep(READ_EVERY_SECONDS)

    async def read(self) -> None:
        """Read the tables once."""
        leases, tickets = await self._leases.live(), await self._line.live()
        self._tables = Tables(self._monotonic(), leases, tickets)

    async def _look_at_homes_again_and_again(self, directory: Path) -> None:
        while True:
            try:
                await self.look_at_homes(directory)
            except Exception:  # sessions go on without these numbers
                log.exception("The disk of the homes could not be looked at; trying again")
            await asyncio.sleep(_LOOK_AT_HOMES_EVERY_SECONDS)

    async def look_at_homes(self, directory: Path) -> None:
        """Ask the disk of the homes once how much room it has."""
        found: Disk | None = None
        with suppress(HomesError, OSError, Silent):
            found = await self._patience.call(_HOMES_ANSWER_SECONDS, _disk_of_homes, directory)
        self._homes_disk, self._homes_asked = found, True

    # -- showing ----------------------------------------------------------------------------------------

    def describe(self) -> Iterable[Metric]:
        """Say nothing: the registry must not ask for values when the hub has none yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Give all metrics as of now."""
        tables = self._tables
        fresh = tables is not None and self._monotonic() - tables.read_at <= OLD_AFTER_SECONDS
        yield _gauge("idlhub_hub_info", "The hub that answers.", [({"version": __version__}, 1)])
        yield _one("idlhub_hub_runtime_up", "Whether the hub looks after GPUs and leases.", self._is_alive())
        yield _one("idlhub_database_up", "Whether the tables of leases could be read lately.", fresh)
        yield from self._of_the_servers()
        yield from self._of_the_homes()
        if tables is not None and fresh:
            yield from _of_the_line(tables.tickets, self._clock())
            yield from self._of_the_leases(tables.leases)
            yield from self._of_the_gpus(tables.leases)

    def _of_the_servers(self) -> Iterator[Metric]:
        names = list(self._keeper.hosts)
        unread, oldest = self._fleet.without_gpus, self._clock() - self._reading_max_age_seconds
        read = {reading.server for reading in self._fleet.servers() if reading.taken_at >= oldest}
        closed, answering, lacking = self._closed().servers, self._keeper.answering, self._lacking()
        yield _by_server(
            "idlhub_server_engine_up",
            "Whether the server's engine answers the hub.",
            {name: self._keeper.has_answered(name) for name in names},
        )
        yield _by_server(
            "idlhub_server_agent_up",
            "Whether the hub gets readings of the server's GPUs.",
            {name: name in read for name in self._fleet.names if name not in unread},
        )
        yield _by_server(
            "idlhub_server_in_service",
            "Whether the server gets new sessions: it answers and nobody drained it.",
            {name: name in answering and name not in closed for name in names},
        )
        yield _by_server(
            "idlhub_server_image_up_to_date",
            "Whether the server had the offered image when it was last looked at.",
            {name: name not in lacking for name in names},
        )

    def _of_the_homes(self) -> Iterator[Metric]:
        if not self._homes_asked:
            return
        disk = self._homes_disk
        yield _one(
            "idlhub_homes_up", "Whether the homes are mounted on the hub's machine and answer.", disk is not None
        )
        if disk is not None:
            yield _one("idlhub_homes_size_bytes", "Size of the disk of the homes.", disk.total_bytes)
            yield _one("idlhub_homes_free_bytes", "What students can still write there.", disk.free_bytes)

    def _of_the_leases(self, leases: Iterable[Lease]) -> Iterator[Metric]:
        phases = Counter(lease.phase for lease in leases)
        yield _gauge(
            "idlhub_leases",
            "Leases that have not ended, by phase.",
            [({"phase": phase.value}, phases[phase]) for phase in _LIVE],
        )
        # Those that everybody asks for are there when there are none, so that sums know 0 from nothing.
        usual = {(name, "session", gpus): 0 for name in self._keeper.hosts for gpus in (0, 1)}
        sessions = Counter(usual)
        sessions.update((lease.server, lease.kind, len(lease.gpus)) for lease in leases)
        yield _gauge(
            "idlhub_sessions",
            "Leases that have not ended, by server, kind and number of GPUs.",
            [
                ({"server": server, "kind": kind, "gpus": str(gpus)}, count)
                for (server, kind, gpus), count in sessions.items()
            ],
        )
        yield _gauge(
            "idlhub_gpu_reserved",
            "1 for each GPU that a lease holds.",
            [
                ({"server": lease.server, "uuid": gpu.uuid, "kind": lease.kind}, 1)
                for lease in leases
                for gpu in lease.gpus
            ],
        )

    def _of_the_gpus(self, leases: Iterable[Lease]) -> Iterator[Metric]:
        leased = {gpu.uuid: lease.holder for lease in leases for gpu in lease.gpus}
        standings = self._fleet.standings(self._keeper.strangers | leased)
        yield _gauge("idlhub_gpus", "GPUs by what they are to the hub.", list(_counted(standings)))


def _counted(standings: Iterable[GPUStanding]) -> Iterator[tuple[dict[str, str], int]]:
    counts = Counter((standing.server, standing.state) for standing in standings)
    for server in sorted({server for server, _ in counts}):
        for state in State:
            yield {"server": server, "state": state.name.lower()}, counts[server, state]


def _of_the_line(tickets: Iterable[Ticket], now: float) -> Iterator[Metric]:
    waiting = [ticket for ticket in tickets if ticket.state is TicketState.WAITING]
    oldest_seconds = max((now - ticket.created_at for ticket in waiting), default=0.0)
    yield _one("idlhub_queue_length", "Requests that wait for a GPU.", len(waiting))
    yield _one(
        "idlhub_queue_oldest_wait_seconds", "How long the one that waits longest has waited.", max(0.0, oldest_seconds)
    )


def _disk_of_homes(directory: Path) -> Disk:
    with held(open_homes(directory)) as homes:
        return disk_of(homes)


def _one(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, float(value))


def _by_server(name: str, words: str, values: Mapping[str, bool]) -> GaugeMetricFamily:
    return _gauge(name, words, [({"server": server}, value) for server, value in values.items()])


def _gauge(name: str, words: str, values: list[tuple[dict[str, str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=list(values[0][0]) if values else [])
    for labels, value in values:
        family.add_metric(list(labels.values()), float(value))
    return family
