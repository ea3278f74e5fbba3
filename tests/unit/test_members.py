"""Servers that join, leave and change while the hub runs, and what is written down of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from keeping import Engines, FakeHost
from ledger import Ledger
from parts import exactly, until

from idl_hub.db import Database
from idl_hub.gpus.fleet import from_settings
from idl_hub.gpus.leases import Lease, Phase
from idl_hub.gpus.members import Member, closed_with, members_in, servers_of, write_members
from idl_hub.gpus.placement import Closed
from idl_hub.settings import Settings
from idl_hub.settings_servers import ServerSettings
from idl_hub.spawners.keeper import Keeper
from idl_hub.spawners.members import Changes, Members


def settings(*servers: str, **changed: str) -> Settings:
    """Return settings with servers of these names; `changed` gives some of them another address."""
    told = [{"name": name, "address": changed.get(name, "10.0.0.1")} for name in servers]
    return Settings.model_validate({"servers": told, "spawner": {"kind": "process"}})


class World:
    """A hub in small, whose engines outlive it."""

    def __init__(self, database: Database, engines: Engines, first: Settings) -> None:
        self.database = database
        self.engines = engines
        self.leases = Ledger(database)
        self.made: list[FakeHost] = []
        self.hub_id = self.leases.read_hub_id()
        hosts = {server.name: self.make(server) for server in first.servers}
        self.keeper = Keeper(self.leases, hosts, self.hub_id)
        self.fleet = from_settings(first)
        self.members = Members(first, database, self.keeper, self.fleet, make=self.make)
        self.members.load()

    def make(self, server: ServerSettings, _spawner: object = None) -> FakeHost:
        self.made.append(FakeHost(server.name, self.engines))
        return self.made[-1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work) for work in (self.keeper.run(), self.members.run())]
        self.keeper.hub_is_up()
        try:
            await until(lambda: self.keeper.answering >= {"gpu1"})
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def session(self, user: str, server: str, phase: Phase = Phase.RUNNING) -> Lease:
        """Have a session there that JupyterHub knows, as far as this phase."""
        lease_id = f"lease-{user}"
        self.keeper.take_in_hand(lease_id)
        lease = await self.leases.acquire(lease_id, user, "", exactly(host=server))
        assert isinstance(lease, Lease)
        unit = self.engines.add(server, lease, self.hub_id, running=True)
        await self.leases.advance(lease.id, phase, unit)
        if phase is Phase.RUNNING:
            self.keeper.claim(lease.id)
        return lease

    async def end(self, lease: Lease) -> None:
        await self.keeper.give_back_soon(lease, "stopped")

    def written(self) -> dict[str, Member]:
        return {member.name: member for member in self.database.transact(members_in)}


@pytest.fixture
def begin(database: Database) -> Callable[[Settings], World]:
    engines = Engines()
    return lambda first: World(database, engines, first)


async def test_a_server_that_joins_gets_sessions_once_it_was_listed(begin: Callable[[Settings], World]) -> None:
    world = begin(settings("gpu1"))
    async with world.running():
        world.engines.silent.add("gpu2")
        new = settings("gpu1", "gpu2")
        assert world.members.apply(new.servers) == Changes(joined=("gpu2",))
        assert world.fleet.names == ("gpu1", "gpu2")
        await until(lambda: world.written().get("gpu2", Member("", None)).fault)
        assert world.keeper.answering == {"gpu1"}
        world.engines.silent.clear()
        await until(lambda: world.keeper.answering == {"gpu1", "gpu2"})
        await until(lambda: world.written()["gpu2"].fault is None)
    assert servers_of(world.written().values()) == new.servers


async def test_a_server_that_answers_again_is_open_at_once(begin: Callable[[Settings], World]) -> None:
    world = begin(settings("gpu1"))
    async with world.running():
        world.engines.silent.add("gpu1")
        assert not await world.keeper.answers("gpu1")
        assert "does not answer" in world.members.closed(Closed()).servers["gpu1"]
        world.engines.silent.clear()
        assert await world.keeper.some_answer(10)
        assert world.members.closed(Closed()) == Closed()


async def test_a_server_that_leaves_keeps_its_session_and_goes_with_the_last_one(
    begin: Callable[[Settings], World],
) -> None:
    world = begin(settings("gpu1", "gpu2"))
    async with world.running():
        await until(lambda: "gpu2" in world.keeper.answering)
        lease = await world.session("ada", "gpu2")
        assert world.members.apply(settings("gpu1").servers) == Changes(leaving=("gpu2",))
        assert world.keeper.answering == {"gpu1"}
        await until(lambda: world.written()["gpu2"].leaving)
        assert world.fleet.names == ("gpu1", "gpu2")  # its GPU is still read, for the session there
        assert "leaves" in world.members.closed(Closed()).servers["gpu2"]
        assert [live.id for live in await world.leases.live()] == [lease.id]
        await world.end(lease)
        await until(lambda: set(world.written()) == {"gpu1"})
    assert set(world.keeper.hosts) == {"gpu1"}
    assert world.fleet.names == ("gpu1",)


async def test_a_server_that_leaves_and_joins_again_meanwhile_is_as_good_as_new(
    begin: Callable[[Settings], World],
) -> None:
    world = begin(settings("gpu1", "gpu2"))
    async with world.running():
        await until(lambda: "gpu2" in world.keeper.answering)
        lease = await world.session("ada", "gpu2")
        world.members.apply(settings("gpu1").servers)
        assert world.members.apply(settings("gpu1", "gpu2").servers).joined == ("gpu2",)
        await until(lambda: world.keeper.answering == {"gpu1", "gpu2"})
        assert [live.phase for live in await world.leases.live()] == [Phase.RUNNING]
        await until(lambda: not world.written()["gpu2"].leaving)
        await world.end(lease)
    assert world.engines.on("gpu2") == ()


async def test_a_changed_server_is_connected_anew_when_no_session_starts_there(
    begin: Callable[[Settings], World],
) -> None:
    world = begin(settings("gpu1", "gpu2"))
    async with world.running():
        await until(lambda: "gpu2" in world.keeper.answering)
        before = world.keeper.hosts["gpu2"]
        lease = await world.session("ada", "gpu2", Phase.CREATING)
        elsewhere = settings("gpu1", "gpu2", gpu2="10.0.0.9")
        assert world.members.apply(elsewhere.servers) == Changes(changed=("gpu2",))
        await until(lambda: world.written()["gpu2"].settings == elsewhere.servers[1])
        assert world.keeper.hosts["gpu2"] is before
        assert world.keeper.answering == {"gpu1"}  # nothing new begins on the old connection
        await world.leases.advance(lease.id, Phase.RUNNING)
        world.keeper.claim(lease.id)
        await until(lambda: world.keeper.hosts["gpu2"] is not before)
        await until(lambda: world.keeper.answering == {"gpu1", "gpu2"})
        assert [live.phase for live in await world.leases.live()] == [Phase.RUNNING]
        await world.end(lease)


@pytest.mark.parametrize("has_session", [True, False])
async def test_the_next_hub_looks_after_what_runs_on_a_server_that_left(
    begin: Callable[[Settings], World], has_session: bool
) -> None:
    world = begin(settings("gpu1", "gpu2"))
    async with world.running():
        await until(lambda: "gpu2" in world.keeper.answering)
        await until(lambda: set(world.written()) == {"gpu1", "gpu2"})
        if has_session:
            await world.session("ada", "gpu2")

    after = begin(settings("gpu1"))
    assert ("gpu2" in after.keeper.hosts) is has_session
    if not has_session:
        return
    for lease in after.leases.read_live():
        after.keeper.claim(lease.id)
    async with after.running():
        assert after.keeper.answering == {"gpu1"}
        (lease,) = await after.leases.live()
        await after.end(lease)
        await until(lambda: set(after.written()) == {"gpu1"})
    assert after.engines.on("gpu2") == ()


def test_members_are_read_as_they_were_written_in_the_order_of_the_settings(database: Database) -> None:
    told = [
        Member("gpu2", settings("gpu2").servers[0], engine_version="26.1.5", said_at=5.0),
        Member("gpu1", settings("gpu1").servers[0], leaving=True, silent_since=1.0, fault="no route", said_at=5.0),
        Member("this machine", None, said_at=5.0),
    ]
    database.transact(lambda session: write_members(session, told))
    assert database.transact(members_in) == tuple(told)
    database.transact(lambda session: write_members(session, told[:1]))
    assert database.transact(members_in) == tuple(told[:1])


def test_what_an_admin_said_of_a_server_goes_before_what_the_hub_sees() -> None:
    members = [
        Member("a", None, fault="no route", silent_since=1.0),
        Member("b", None, leaving=True),
        Member("c", None),
    ]
    closed = closed_with(Closed(servers={"a": "new fans (root)"}, gpus={"GPU-1": "loud"}), members)
    assert closed.servers["a"] == "new fans (root)"
    assert "not in the settings" in closed.servers["b"]
    assert "c" not in closed.servers
    assert closed.gpus == {"GPU-1": "loud"}


def test_students_read_that_an_engine_is_silent_and_only_staff_what_the_network_said() -> None:
    member = Member("a", None, fault="no route to 10.0.0.5", silent_since=1.0)
    told: Any = closed_with(Closed(), [member]).servers["a"]
    assert told.startswith("its engine does not answer since")
    assert "10.0.0.5" not in told
    assert member.trouble == f"{told}: no route to 10.0.0.5"
