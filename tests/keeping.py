"""A stand-in for engines that answer late, never, or after the hub is gone; and a hub in small around a real keeper."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ledger import Ledger
from parts import NOW, card, exactly, server

from idl_hub.db import Database
from idl_hub.gpus.leases import Lease, Phase
from idl_hub.gpus.placement import Rules, choose
from idl_hub.spawners.host import Change, HostError, Unit
from idl_hub.spawners.keeper import Keeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sqlalchemy.orm import Session

Result = TypeVar("Result")
GPUS_OF_HOST = 2
_TURNS = 60


class RefusedError(Exception):
    """The engine answered that it will not."""


@dataclass(eq=False)
class Call:
    """A request that an engine has not worked on yet; `answer` is None when nobody waits for it any more."""

    host: str
    lease_id: str
    effect: Callable[[], Any]
    answer: asyncio.Future[Any] | None


@dataclass
class Engines:
    """What runs on the hosts, whatever hubs believe; outlives them."""

    units: dict[str, tuple[str, Unit]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    fresh: set[str] = field(default_factory=set)
    """Hosts whose lists are from the moment they answer; else from the moment they were asked."""
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def on(self, host: str) -> tuple[Unit, ...]:
        return tuple(unit for place, unit in self.units.values() if place == host)

    def add(self, host: str, lease: Lease, hub_id: str, running: bool = False) -> str:
        unit_id = f"unit{next(self.numbers):04}"
        unit = Unit(unit_id, lease.id, hub_id, running, tuple(gpu.uuid for gpu in lease.gpus))
        self.units[unit_id] = (host, unit)
        return unit_id

    def set_running(self, unit_id: str, running: bool) -> None:
        if unit_id not in self.units:
            raise RefusedError(f"no such unit: {unit_id}")
        host, unit = self.units[unit_id]
        self.units[unit_id] = (host, replace(unit, running=running, ending="" if running else "it died"))

    def remove(self, unit_id: str, lease_id: str) -> None:
        if unit_id in self.units and self.units[unit_id][1].lease_id == lease_id:
            del self.units[unit_id]

    def work_on(self, call: Call, how: str = "answer") -> None:
        """Do what was asked and say so; or lose the answer; or let the caller wait in vain, to do it later."""
        answer = call.answer
        if how == "too late":
            call.answer = None
            if answer is not None and not answer.done():
                answer.set_exception(HostError("no answer in time"))
            return
        self.calls.remove(call)
        try:
            result, fault = call.effect(), None
        except RefusedError as error:
            result, fault = None, error
        if answer is None or answer.done():
            return
        if how == "lost":
            answer.set_exception(HostError("the connection broke"))
        elif fault is not None:
            answer.set_exception(fault)
        else:
            answer.set_result(result)


class FakeHost:
    """One hub's way to one engine."""

    def __init__(self, name: str, engines: Engines) -> None:
        self.name = name
        self.engines = engines
        self._under_way: dict[str, set[asyncio.Future[Any]]] = {}

    async def _call(self, effect: Callable[[], Any], lease_id: str = "") -> Any:
        if self.name in self.engines.silent:
            raise HostError("no connection")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda future: future.cancelled() or future.exception())
        call = Call(self.name, lease_id, effect, answer)
        self.engines.calls.append(call)
        if lease_id:
            calls = self._under_way.setdefault(lease_id, set())
            calls.add(answer)
            answer.add_done_callback(calls.discard)
        if self.name not in self.engines.slow:
            self.engines.work_on(call)
        return await asyncio.shield(answer)

    async def ping(self) -> None:
        if self.name in self.engines.silent:
            raise HostError("no connection")

    async def changes(self) -> AsyncIterator[Change]:
        yield Change("connected")
        await asyncio.get_running_loop().create_future()

    async def create(self, lease: Lease, hub_id: str) -> str:
        unit_id: str = await self._call(lambda: self.engines.add(self.name, lease, hub_id), lease.id)
        return unit_id

    async def start(self, unit_id: str, lease: Lease) -> None:
        await self._call(lambda: self.engines.set_running(unit_id, True), lease.id)

    async def units(self) -> tuple[Unit, ...]:
        asked = self.engines.on(self.name)
        now: tuple[Unit, ...] = await self._call(lambda: self.engines.on(self.name))
        return now if self.name in self.engines.fresh else asked

    async def remove(self, unit_id: str, lease_id: str) -> None:
        await self._call(lambda: self.engines.remove(unit_id, lease_id))

    async def settle(self, lease_id: str) -> None:
        if calls := set(self._under_way.get(lease_id, ())):
            await asyncio.wait(calls)

    def close(self) -> None:
        pass


class InlineDatabase(Database):
    """Works in the loop itself, so that a test decides what comes before what; a dead hub's never answers."""

    dead = False

    async def run(self, work: Callable[[Session], Result]) -> Result:
        await asyncio.sleep(0)
        if self.dead:
            await asyncio.get_running_loop().create_future()
        return self.transact(work)


class Hub:
    """A keeper, and spawners in small: the steps of a start and a stop, as `GPUSpawnerMixin` takes them."""

    def __init__(self, url: str, engines: Engines, host_names: tuple[str, ...], saved: set[str]) -> None:
        self.loop = asyncio.new_event_loop()
        self.database = InlineDatabase(url)
        self.leases = Ledger(self.database)
        self.engines = engines
        self.hosts = {name: FakeHost(name, engines) for name in host_names}
        self.hub_id = self.leases.read_hub_id()
        self.keeper = Keeper(self.leases, self.hosts, self.hub_id)
        self.sessions: dict[str, Lease] = {}
        self.starts: list[asyncio.Task[None]] = []
        self.looks: list[asyncio.Task[None]] = []
        self._saved = saved
        for lease in self.leases.read_live():
            if lease.id in saved:
                self.keeper.claim(lease.id)
                self.sessions[lease.id] = lease

    def turn(self) -> None:
        """Let everything go on until it waits for an engine."""

        async def turns() -> None:
            for _ in range(_TURNS):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        self.starts = [task for task in self.starts if not task.done()]
        self.looks = [task for task in self.looks if not task.done()]

    def look(self, host: str) -> None:
        async def look() -> None:
            with suppress(HostError):
                await self.keeper.look(host)

        self.looks.append(self.loop.create_task(look()))

    def start(self, user: str, gpu_count: int = 1) -> None:
        async def start() -> None:
            with suppress(HostError, RefusedError, asyncio.CancelledError):
                await self._start(user, gpu_count)

        self.starts.append(self.loop.create_task(start()))

    async def _start(self, user: str, gpu_count: int) -> None:
        lease_id = f"l{next(self.engines.numbers):04}"  # the same at each run, as hypothesis needs it
        self.keeper.take_in_hand(lease_id)
        got = await self.leases.acquire(lease_id, user, "", lambda holders: self._choose(holders, gpu_count))
        if not isinstance(got, Lease):
            self.keeper.let_go(lease_id)
            return
        host = self.hosts[got.server]
        try:
            unit_id = await host.create(got, self.hub_id)
            await self.leases.advance(got.id, Phase.CREATING, unit_id)
            await host.start(unit_id, got)
            await self.leases.advance(got.id, Phase.RUNNING)
        except BaseException:
            self.keeper.give_back_soon(got, "its start failed")
            raise
        self.keeper.claim(got.id)
        self.sessions[got.id] = got

    def _choose(self, holders: Mapping[str, str], gpu_count: int) -> Any:
        names = sorted(self.keeper.answering)
        cards = {name: [card(n, uuid=f"{name}-{n}") for n in range(GPUS_OF_HOST)] for name in names}
        readings = [server(*cards[name], name=name) for name in names]
        return choose(readings, {**self.keeper.strangers, **holders}, gpu_count, Rules(), NOW)

    def stop(self, lease_id: str) -> None:
        lease = self.sessions.pop(lease_id)
        self._saved.discard(lease_id)

        async def stop() -> None:
            self.keeper.give_back_soon(lease, "stopped")

        self.loop.run_until_complete(stop())

    def save(self) -> None:
        """Do what JupyterHub does after a start returned: write the spawners' state down."""
        self._saved |= set(self.sessions)

    def die(self) -> None:
        """End as by SIGKILL: nothing of this hub goes on, but what engines were asked they may still do."""
        self.database.dead = True
        for call in self.engines.calls:
            call.answer = None

    def bury(self) -> None:
        """Let go of what a hub held in this process, dead or alive."""
        self.database.dead = True
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()
        self.database.close()


class Room:
    """A ledger, engines that work at once, and a keeper over two hosts."""

    def __init__(self, database: Database) -> None:
        self.leases = Ledger(database)
        self.engines = Engines()
        self.hosts = {name: FakeHost(name, self.engines) for name in ("gpu1", "gpu2")}
        self.keeper = Keeper(self.leases, self.hosts, "hub")

    async def session(self, lease_id: str = "l1", gpu: int = 0, *, running: bool = True, host: str = "gpu1") -> Lease:
        """Return the lease of a session that JupyterHub knows."""
        lease = await self.leases.acquire(lease_id, "anna", "", exactly(gpu, host=host))
        assert isinstance(lease, Lease)
        unit_id = self.engines.add(host, lease, "hub", running)
        await self.leases.advance(lease.id, Phase.RUNNING, unit_id)
        self.keeper.claim(lease.id)
        return lease

    async def look(self, host: str = "gpu1") -> None:
        await self.keeper.look(host)
        await self.finish()

    async def finish(self) -> None:
        """Wait for every clean-up that was begun."""
        if self.keeper._tasks:
            await asyncio.wait(set(self.keeper._tasks), timeout=20)

    async def live(self) -> list[tuple[str, Phase]]:
        return [(lease.id, lease.phase) for lease in await self.leases.live()]
