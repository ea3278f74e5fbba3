"""Servers that join and leave the hub's picture, and servers without GPUs in it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from parts import NOW, card, server, until

from idl_hub.gpus import GPU, ServerReading
from idl_hub.gpus.fleet import Fleet
from idl_hub.gpus.placement import NO_WISH, Choice, Closed, NoGPU, Rules, State, Wish, choose
from idl_hub.settings_servers import ServerSettings

HOSTS = frozenset({"gpu1", "gpu2", "cpu1", "cpu2"})


class Told:
    """A source that is read while it is run."""

    fault = ""

    def __init__(self, name: str, *gpus: GPU) -> None:
        self.reading = server(*gpus, name=name)
        self.runs = 0

    def latest(self) -> ServerReading | None:
        return self.reading

    async def wait_first(self, timeout: float) -> ServerReading:
        return self.reading

    async def run(self) -> None:
        self.runs += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.runs -= 1


def fleet_of(**sources: Told | None) -> Fleet:
    return Fleet(sources, Rules(), lambda: NOW)


async def test_a_source_runs_from_its_joining_to_its_leaving() -> None:
    first, second = Told("gpu1", card(0)), Told("gpu2", card(1))
    fleet = fleet_of(gpu1=first)
    running = asyncio.create_task(fleet.run())
    try:
        await until(lambda: first.runs == 1)
        fleet.set_sources({"gpu1": first, "gpu2": second})
        await until(lambda: second.runs == 1)
        assert first.runs == 1
        fleet.set_sources({"gpu2": second})
        await until(lambda: first.runs == 0)
        assert second.runs == 1
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert second.runs == 0


def test_what_has_left_is_neither_shown_nor_given_out() -> None:
    first, second = Told("gpu1", card(0)), Told("gpu2", card(1))
    fleet = fleet_of(gpu1=first, gpu2=second)
    assert {standing.server for standing in fleet.standings({})} == {"gpu1", "gpu2"}
    fleet.set_sources({"gpu1": first})
    assert fleet.names == ("gpu1",)
    assert {standing.server for standing in fleet.standings({})} == {"gpu1"}
    assert isinstance(fleet.choose({"GPU-0": "ada"}, 1, HOSTS), NoGPU)


def test_a_card_that_moved_from_a_server_that_left_is_free_in_its_new_one() -> None:
    first, second = Told("gpu1", card(0)), Told("gpu2", card(0))
    fleet = fleet_of(gpu1=first, gpu2=second)
    assert [standing.state for standing in fleet.standings({})] == [State.FREE, State.UNKNOWN]
    fleet.set_sources({"gpu2": Told("gpu2", card(0))})
    assert [(standing.server, standing.state) for standing in fleet.standings({})] == [("gpu2", State.FREE)]


def test_following_settings_keeps_the_agent_of_a_server_that_stays(tmp_path: Path) -> None:
    def named(name: str, port: int) -> ServerSettings:
        agent = {"url": f"http://127.0.0.1:{port}", "token_file": str(tmp_path / "token")}
        return ServerSettings.model_validate({"name": name, "agent": agent})

    fleet = fleet_of()
    fleet.follow([named("gpu1", 1), named("gpu2", 2)])
    before = dict(fleet._sources)
    fleet.follow([ServerSettings(name="cpu1"), named("gpu2", 2), named("gpu1", 3)])
    assert fleet.names == ("cpu1", "gpu2", "gpu1")
    assert fleet.without_gpus == {"cpu1"}
    assert fleet._sources["gpu2"] is before["gpu2"]
    assert fleet._sources["gpu1"] is not before["gpu1"]


def test_sessions_without_gpu_go_to_servers_without_gpus_while_one_is_in_service() -> None:
    fleet = fleet_of(gpu1=Told("gpu1", card(0)), cpu1=None, cpu2=None)
    assert server_chosen(fleet, HOSTS) == "cpu1"
    assert server_chosen(fleet, HOSTS, Wish(sessions={"cpu1": 3, "cpu2": 2})) == "cpu2"
    assert server_chosen(fleet, HOSTS, Wish(last_server="cpu2")) == "cpu2"
    assert server_chosen(fleet, HOSTS, Wish(servers=frozenset({"gpu1"}))) == "gpu1"
    assert server_chosen(fleet, HOSTS - {"cpu1"}) == "cpu2"
    assert server_chosen(fleet, frozenset({"gpu1"})) == "gpu1"


def test_sessions_with_gpu_never_go_to_servers_without() -> None:
    fleet = fleet_of(gpu1=Told("gpu1", card(0)), cpu1=None)
    assert isinstance(choice := fleet.choose({}, 1, HOSTS), Choice)
    assert choice.server == "gpu1"
    assert isinstance(fleet.choose({"GPU-0": "ada"}, 1, HOSTS), NoGPU)


@pytest.mark.parametrize("closed", [{"cpu1": "drained"}, {}])
def test_a_closed_server_without_gpus_gets_nothing(closed: dict[str, str]) -> None:
    readings = [server(card(0))]
    choice = choose(readings, {}, 0, Rules(), NOW, Closed(servers=closed), wish=NO_WISH, without_gpus=("cpu1",))
    assert isinstance(choice, Choice)
    assert choice.server == ("gpu1" if closed else "cpu1")


def test_servers_of_different_size_and_kind_stand_side_by_side() -> None:
    small = Told("gpu1", card(0, name="NVIDIA GeForce GTX 1080 Ti"))
    large = Told("gpu2", *(card(number, uuid=f"GPU-b{number}", name="NVIDIA RTX A6000") for number in range(4)))
    fleet = fleet_of(gpu1=small, gpu2=large, cpu1=None)
    assert fleet.most_gpus() == 4
    assert isinstance(choice := fleet.choose({}, 3, HOSTS), Choice)
    assert (choice.server, {gpu.name for gpu in choice.gpus}) == ("gpu2", {"NVIDIA RTX A6000"})


def server_chosen(fleet: Fleet, hosts: frozenset[str], wish: Wish = NO_WISH) -> str:
    choice = fleet.choose({}, 0, hosts, wish)
    assert isinstance(choice, Choice)
    return choice.server
