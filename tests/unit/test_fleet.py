"""All servers together: what is remembered, what is believed, and what is given out."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from parts import NOW, SICK, card, until

from idl_hub.gpus import GPU, ServerReading
from idl_hub.gpus.fleet import Fleet, ThisMachine, from_settings
from idl_hub.gpus.fleet_agent import AgentClient
from idl_hub.gpus.memory import MOST_GPUS_OF_A_SERVER
from idl_hub.gpus.placement import Choice, Closed, NoGPU, Rules, State, Wish
from idl_hub.gpus.reading import HEALTHY, Process, ProcessOrigin, Xid
from idl_hub.gpus.simulator import Simulator
from idl_hub.settings import Settings

pytest_plugins = ["simulated_gpus"]
HOSTS = frozenset({"gpu1", "gpu2"})


class Told:
    """A server that says what a test wants."""

    def __init__(self, name: str = "gpu1", *gpus: GPU) -> None:
        self.name = name
        self.reading: ServerReading | None = None
        if gpus:
            self.says(*gpus)

    def says(self, *gpus: GPU, at: float = NOW, **more: Any) -> None:
        self.reading = ServerReading(self.name, at, HEALTHY, gpus, **more)

    def latest(self) -> ServerReading | None:
        return self.reading


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def fleet_of(*servers: Told, clock: Clock | None = None, closed: Closed | None = None) -> Fleet:
    sources = {server.name: server for server in servers}
    return Fleet(sources, Rules(), clock or Clock(), lambda: closed or Closed())


def passes(fleet: Fleet, server: Told, clock: Clock, seconds: int, *gpus: GPU) -> None:
    """Have the server say the same every second."""
    for _ in range(seconds):
        clock.now += 1
        server.says(*gpus, at=clock.now)
        fleet.servers()


def chosen(found: Choice | NoGPU) -> list[str]:
    assert isinstance(found, Choice), found.reason
    return [gpu.uuid for gpu in found.gpus]


def state(fleet: Fleet, uuid: str | None, holders: dict[str, str] | None = None) -> tuple[State, str]:
    [found] = [standing for standing in fleet.standings(holders or {}) if standing.gpu.uuid == uuid]
    return found.state, found.reason


# -- averages, history --------------------------------------------------------------------------------------


def test_the_free_gpu_with_the_least_averaged_load_is_chosen_whatever_it_does_this_second() -> None:
    server, clock = Told(), Clock()
    fleet = fleet_of(server, clock=clock)
    passes(fleet, server, clock, 120, card(0, utilization_ratio=0.9), card(1))
    passes(fleet, server, clock, 1, card(0, utilization_ratio=0.0), card(1, utilization_ratio=0.02))
    assert fleet.average_utilization_ratio("GPU-0") == pytest.approx(0.9 * math.exp(-1 / 60))
    assert chosen(fleet.choose({}, 1, HOSTS)) == ["GPU-1"]


def test_a_gpu_whose_session_just_ended_is_free_although_its_average_lingers() -> None:
    server, clock = Told(), Clock()
    fleet = fleet_of(server, clock=clock)
    passes(fleet, server, clock, 120, card(0, utilization_ratio=1.0))
    passes(fleet, server, clock, 1, card(0))
    assert state(fleet, "GPU-0") == (State.FREE, "free")
    assert chosen(fleet.choose({}, 1, HOSTS)) == ["GPU-0"]


def test_load_is_foreign_only_on_a_gpu_that_nobody_holds() -> None:
    fleet = fleet_of(Told("gpu1", card(0, utilization_ratio=0.9), card(1, utilization_ratio=0.9)))
    assert state(fleet, "GPU-0", {"GPU-1": "anna"})[0] is State.FOREIGN
    assert state(fleet, "GPU-1", {"GPU-1": "anna"}) == (State.TAKEN, "held by anna")


def test_the_reason_says_for_how_long_a_gpu_was_idle() -> None:
    server, clock = Told("gpu05"), Clock()
    fleet = fleet_of(server, clock=clock)
    cards = [card(index, temperature_celsius=40 - index) for index in range(6)]
    passes(fleet, server, clock, 40 * 60 + 1, *cards)
    found = fleet.choose({}, 1, frozenset({"gpu05"}))
    assert isinstance(found, Choice)
    assert found.words == "gpu05 #5: idle for 40 min, 35 °C, coolest of 6 free ones"


def test_an_hour_is_remembered_even_if_nobody_asks_for_it() -> None:
    server, clock = Told(), Clock()
    fleet = fleet_of(server, clock=clock)
    assert fleet.history("GPU-0") == ()
    passes(fleet, server, clock, 30, card(0, utilization_ratio=0.5, memory_used_bytes=2**30))
    points = fleet.history("GPU-0")
    assert len(points) >= 3
    assert {point.utilization_ratio for point in points} == {0.5}
    assert {point.memory_used_bytes for point in points} == {2**30}
    assert fleet.history("GPU-9") == ()


def test_a_gpu_that_people_from_outside_keep_using_is_given_out_last_among_equals() -> None:
    server, clock = Told(), Clock()
    fleet = fleet_of(server, clock=clock)
    visited = card(0, processes=(Process(7, origin=ProcessOrigin.OUTSIDE),))
    held = card(1, processes=(Process(8, origin=ProcessOrigin.CONTAINER, container_id="f" * 64),))
    passes(fleet, server, clock, 2 * 3600, visited, held, card(2, temperature_celsius=80))
    passes(fleet, server, clock, 3600, card(0), card(1), card(2, temperature_celsius=80))
    assert chosen(fleet.choose({}, 3, HOSTS)) == ["GPU-1", "GPU-2", "GPU-0"]


def test_the_same_reading_twice_counts_once() -> None:
    server = Told("gpu1", card(0, utilization_ratio=1.0))
    fleet = fleet_of(server)
    for _ in range(100):
        fleet.servers()
    assert len(fleet.history("GPU-0")) == 1


# -- health ---------------------------------------------------------------------------------------------------


def test_a_gpu_that_was_lost_and_answers_again_is_left_out_until_an_admin_put_it_back() -> None:
    server, clock = Told("gpu1", card(0, health=SICK)), Clock()
    fleet = fleet_of(server, clock=clock)
    [(uuid, why)] = fleet.needs_admin()
    assert uuid == "GPU-0"
    assert "lost" in why
    passes(fleet, server, clock, 3600, card(0))
    assert state(fleet, "GPU-0")[0] is State.SICK
    assert isinstance(fleet.choose({}, 1, HOSTS), NoGPU)
    fleet.clear("GPU-0")
    assert fleet.needs_admin() == ()
    assert chosen(fleet.choose({}, 1, HOSTS)) == ["GPU-0"]


def test_what_an_admin_put_back_before_a_restart_stays_in_service() -> None:
    server, clock = Told(), Clock()
    fleet = fleet_of(server, clock=clock)
    fleet.clear("GPU-0", NOW - 100)  # from the record, before anything was read
    old = (Xid(79, NOW - 500),)
    passes(fleet, server, clock, 1, card(0, xids=old))
    assert fleet.needs_admin() == ()
    passes(fleet, server, clock, 1, card(0, xids=(*old, Xid(48, NOW))))
    assert [uuid for uuid, _ in fleet.needs_admin()] == ["GPU-0"]


def test_what_an_admin_closed_is_told_with_the_admins_words() -> None:
    fleet = fleet_of(Told("gpu1", card(0, xids=(Xid(79, NOW),))), closed=Closed(gpus={"GPU-0": "dusty (root)"}))
    assert state(fleet, "GPU-0") == (State.CLOSED, "dusty (root)")


def test_an_error_of_a_program_is_noted_and_the_gpu_stays_in_use() -> None:
    fleet = fleet_of(Told("gpu1", card(0, xids=(Xid(31, NOW),))))
    assert chosen(fleet.choose({}, 1, HOSTS)) == ["GPU-0"]
    assert "XID 31" in fleet.note("GPU-0")
    assert fleet.note("GPU-9") == ""


# -- whom to believe ------------------------------------------------------------------------------------------


def test_a_server_that_claims_the_gpu_of_another_gets_no_session_for_it() -> None:
    owner, liar = Told("gpu1", card(0)), Told("gpu2", card(0), card(1, uuid="OWN"))
    fleet = fleet_of(owner, liar)
    found = fleet.choose({}, 1, frozenset({"gpu2"}))
    assert chosen(found) == ["OWN"]
    assert isinstance(fleet.choose({"OWN": "anna"}, 1, frozenset({"gpu2"})), NoGPU)
    assert chosen(fleet.choose({}, 1, frozenset({"gpu1"}))) == ["GPU-0"]
    kind, words = state(fleet, None)
    assert kind is State.UNKNOWN
    assert "gpu1 has a GPU with this UUID (GPU-0)" in words


def test_a_card_that_was_moved_belongs_to_its_new_server() -> None:
    old, new = Told("gpu1", card(0), card(1)), Told("gpu2", card(5))
    fleet = fleet_of(old, new)
    fleet.servers()
    old.says(card(1))
    new.says(card(5), card(0))
    fleet.servers()
    assert chosen(fleet.choose({}, 2, frozenset({"gpu2"}))) == ["GPU-0", "GPU-5"]


def test_an_agent_that_invents_new_gpus_every_second_fills_no_memory() -> None:
    server, honest, clock = Told(), Told("gpu2", card(0, uuid="HONEST", health=SICK)), Clock()
    fleet = fleet_of(server, honest, clock=clock)
    for second in range(200):
        passes(fleet, server, clock, 1, *(card(n, uuid=f"GPU-{second}-{n}") for n in range(8)))
    memory = fleet._memory
    assert len(memory._gpus) == len(memory._remembered) == MOST_GPUS_OF_A_SERVER + 1
    assert fleet.history("GPU-199-0")
    assert [uuid for uuid, _ in fleet.needs_admin()] == ["HONEST"]


def test_silence_is_unknown_and_not_free() -> None:
    server, clock = Told("gpu1", card(0)), Clock()
    fleet = fleet_of(server, clock=clock)
    assert chosen(fleet.choose({}, 1, HOSTS)) == ["GPU-0"]
    clock.now += 11
    assert state(fleet, "GPU-0") == (State.UNKNOWN, "no reading for 11 s")
    assert isinstance(fleet.choose({}, 1, HOSTS), NoGPU)


def test_a_session_without_gpu_finds_a_server_that_was_never_read_but_none_that_is_not_allowed() -> None:
    fleet = fleet_of(Told())
    assert fleet.choose({}, 0, HOSTS) == Choice("gpu1", (), "a session without GPU")
    assert isinstance(fleet.choose({}, 0, HOSTS, Wish(servers=frozenset({"gpu9"}))), NoGPU)


def test_a_fleet_can_be_asked_from_many_threads_at_once() -> None:
    server, clock = Told("gpu1", *(card(n) for n in range(8))), Clock()
    fleet = fleet_of(server, clock=clock)
    faults: list[Exception] = []
    stopping = threading.Event()

    def ask() -> None:
        try:
            while not stopping.is_set():
                fleet.choose({}, 1, HOSTS)
                fleet.needs_admin()
                fleet.clear("GPU-3")
        except Exception as error:  # noqa: BLE001 - that none comes is what is tested
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for second in range(300):
        passes(fleet, server, clock, 1, *(card(n, uuid=f"GPU-{second}-{n}") for n in range(8)))
    stopping.set()
    for thread in threads:
        thread.join(20)
    assert not faults


# -- running --------------------------------------------------------------------------------------------------


class Fetched(Told):
    """A source that must be run."""

    fault = "it was not asked yet"

    def __init__(self, name: str, gpus: Sequence[GPU], *, comes: bool = True) -> None:
        super().__init__(name)
        self.gpus, self.comes, self.running, self.first = gpus, comes, False, asyncio.Event()

    async def run(self) -> None:
        self.running = True
        try:
            if self.comes:
                self.says(*self.gpus)
                self.fault = ""
                self.first.set()
            await asyncio.get_running_loop().create_future()
        finally:
            self.running = False

    async def wait_first(self, timeout: float) -> ServerReading:
        await asyncio.wait_for(self.first.wait(), timeout)
        assert self.reading is not None
        return self.reading


async def test_running_fetches_from_every_source_and_ends_with_its_task() -> None:
    good, mute = Fetched("gpu1", [card(0)]), Fetched("gpu2", [], comes=False)
    fleet = Fleet({"gpu1": good, "gpu2": mute}, Rules(), Clock())
    running = asyncio.create_task(fleet.run())
    assert not await fleet.wait_first(0.2)
    assert [server.server for server in fleet.servers()] == ["gpu1"]
    assert fleet.faults() == {"gpu2": "it was not asked yet"}
    await until(lambda: fleet.history("GPU-0"))
    mute.comes = True
    mute.says(card(1))
    mute.first.set()
    assert await fleet.wait_first(5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not good.running
    assert not mute.running


async def test_settings_without_servers_read_this_machine_in_process(
    simulator: Simulator, simulator_library: Path
) -> None:
    gpus = {"simulated": 8, "simulator_library": simulator_library, "simulator_state": simulator.path}
    settings = Settings.model_validate({"gpus": {**gpus, "server_name": "here", "temperature_limit_celsius": 60}})
    fleet = from_settings(settings)
    assert fleet.names == ("here",)
    assert isinstance(fleet._sources["here"], ThisMachine)
    running = asyncio.create_task(fleet.run())
    try:
        assert await fleet.wait_first(20)
        assert fleet.simulated
        assert fleet.most_gpus() == 8
        assert isinstance(fleet.choose({}, 1, frozenset({"here"})), Choice)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_settings_with_servers_ask_their_agents(tmp_path: Path) -> None:
    servers = [
        {"name": f"gpu{n:02}", "agent": {"url": f"https://10.0.0.{n}:9810", "token_file": "t", "ca_file": "c"}}
        for n in (1, 2)
    ]
    servers.append({"name": "without-gpus"})
    fleet = from_settings(Settings.model_validate({"servers": servers, "spawner": {"kind": "process"}}))
    assert fleet.names == ("gpu01", "gpu02", "without-gpus")
    assert fleet.without_gpus == {"without-gpus"}
    assert all(isinstance(source, AgentClient) for source in fleet._sources.values())


def test_the_temperature_limit_of_the_settings_holds() -> None:
    settings = Settings.model_validate({"gpus": {"temperature_limit_celsius": 60}})
    fleet = from_settings(settings, clock=Clock())
    server = Told("this machine", card(0, temperature_celsius=60), card(1, temperature_celsius=59))
    fleet._sources = {"this machine": server}
    assert state(fleet, "GPU-0")[0] is State.SICK
    assert state(fleet, "GPU-1")[0] is State.FREE
    server.says(replace(card(0), temperature_celsius=40), card(1), at=NOW + 1)
    assert state(fleet, "GPU-0")[0] is State.SICK
