"""The keeper of leases: its judgement, and its looks beside starts and stops."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from keeping import Room
from parts import exactly, opened, sqlite_url, until

from idl_hub.gpus.leases import Lease, Phase
from idl_hub.gpus.placement import ChosenGPU
from idl_hub.spawners.host import HostError, Unit
from idl_hub.spawners.keeper import Keeper
from idl_hub.spawners.verdicts import Verdict, verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


NOBODY: frozenset[str] = frozenset()
LEASE = Lease("l1", "session", "gpu1", "anna", "", (ChosenGPU("GPU-0", 0, "GTX"),), Phase.RUNNING, "c1", "", 0.0)
UNIT = Unit("c1", "l1", "hub", running=True, gpu_uuids=("GPU-0",))


def judge(
    lease: Lease, *units: Unit, in_hand: frozenset[str] = NOBODY, claimed: frozenset[str] | None = NOBODY
) -> list[str]:
    return [verdict.why for verdict in verdicts([lease], units, in_hand, claimed)]


# -- its judgement ----------------------------------------------------------------------------------------


def test_a_running_session_that_the_hub_knows_goes_on() -> None:
    assert judge(LEASE, UNIT, claimed=frozenset({"l1"})) == []


def test_a_running_session_that_no_hub_knows_was_a_cut_off_start() -> None:
    assert judge(LEASE, UNIT) == ["its start was cut off before the hub knew of it"]


def test_while_the_hub_still_loads_a_running_session_goes_on() -> None:
    assert judge(LEASE, UNIT, claimed=None) == []


@pytest.mark.parametrize("phase", [Phase.RESERVED, Phase.CREATING])
@pytest.mark.parametrize("units", [(), (UNIT,)])
def test_a_start_that_nobody_works_on_was_cut_off(phase: Phase, units: tuple[Unit, ...]) -> None:
    assert judge(replace(LEASE, phase=phase), *units, claimed=None) == ["its start was cut off"]


@pytest.mark.parametrize("phase", [Phase.STOPPING, Phase.LOST])
@pytest.mark.parametrize("units", [(), (UNIT,)])
def test_a_stop_that_nobody_works_on_is_finished(phase: Phase, units: tuple[Unit, ...]) -> None:
    assert judge(replace(LEASE, phase=phase), *units, claimed=None) == ["its stop was cut off"]


def test_a_session_whose_container_ended_ends_with_what_the_engine_says() -> None:
    ended = replace(UNIT, running=False, ending="its container ended: Exited (137) 2 minutes ago")
    assert judge(LEASE, ended, claimed=frozenset({"l1"})) == ["its container ended: Exited (137) 2 minutes ago"]


def test_a_session_whose_container_is_gone_ends() -> None:
    assert judge(LEASE, claimed=frozenset({"l1"})) == ["its container is gone"]


def test_one_running_container_of_several_is_enough() -> None:
    assert judge(LEASE, replace(UNIT, running=False), replace(UNIT, id="c2"), claimed=frozenset({"l1"})) == []


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_what_somebody_works_on_is_left_alone(phase: Phase) -> None:
    assert judge(replace(LEASE, phase=phase), in_hand=frozenset({"l1"})) == []


def test_each_lease_is_judged_by_itself() -> None:
    other = replace(LEASE, id="l2")
    assert verdicts([LEASE, other], [UNIT], NOBODY, frozenset({"l1", "l2"})) == [Verdict("l2", "its container is gone")]


# -- its looks --------------------------------------------------------------------------------------------


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with opened(sqlite_url(tmp_path)) as database:
        yield Room(database)


async def test_a_look_leaves_a_running_session_alone(room: Room) -> None:
    await room.session()
    room.keeper.hub_is_up()
    await room.look()
    assert await room.live() == [("l1", Phase.RUNNING)]
    assert len(room.engines.units) == 1


async def test_a_session_that_died_frees_its_gpu_and_leaves_no_container(room: Room) -> None:
    await room.session(running=False)
    await room.look()
    assert await room.live() == []
    assert room.engines.units == {}


async def test_what_an_ended_lease_left_is_removed_and_holds_its_gpu_until_it_is_gone(room: Room) -> None:
    lease = await room.session()
    await room.leases.end(lease.id, "stopped")
    room.engines.slow.add("gpu1")
    looking = asyncio.ensure_future(room.keeper.look("gpu1"))
    await answer(room, "gpu1")
    await looking
    assert room.keeper.strangers == {"GPU-0": "an ended session that is being removed"}
    assert room.keeper.answering == {"gpu1"}
    await answer(room, "gpu1")
    room.engines.slow.clear()
    await room.finish()
    await room.look()
    assert room.engines.units == {}
    assert room.keeper.strangers == {}


async def test_a_leftover_that_cannot_be_removed_does_not_keep_others_from_starting(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await room.session()
    await room.leases.end(lease.id, "stopped")

    async def stuck(unit_id: str, lease_id: str) -> None:
        raise HostError("device or resource busy")

    room.hosts["gpu1"].remove = stuck  # type: ignore[method-assign]
    for _ in range(2):
        await room.look()
    assert room.keeper.answering == {"gpu1"}
    assert room.keeper.strangers == {"GPU-0": "an ended session that is being removed"}
    assert "the next look at gpu1 tries again: device or resource busy" in caplog.text


async def test_containers_of_other_hubs_and_unknown_leases_are_never_touched_but_hold_their_gpus(room: Room) -> None:
    lease = await room.session()
    await room.leases.end(lease.id, "stopped")
    room.engines.units.clear()
    room.engines.add("gpu1", replace(LEASE, gpus=(ChosenGPU("GPU-4", 4, "GTX"),)), "another hub", running=True)
    room.engines.add("gpu1", replace(LEASE, id="unheard-of", gpus=(ChosenGPU("GPU-5", 5, "GTX"),)), "hub", True)
    room.engines.add("gpu1", replace(LEASE, id="stopped", gpus=(ChosenGPU("GPU-6", 6, "GTX"),)), "another hub")
    await room.look()
    assert len(room.engines.units) == 3
    assert room.keeper.strangers == {
        "GPU-4": "a session of another hub",
        "GPU-5": "an unknown session of this hub",
    }


async def test_a_server_renamed_in_the_settings_does_not_cost_running_sessions(room: Room) -> None:
    lease = await room.leases.acquire("l1", "anna", "", exactly(0, host="its old name"))
    assert isinstance(lease, Lease)
    room.engines.add("gpu1", lease, "hub", running=True)
    await room.leases.advance(lease.id, Phase.RUNNING)
    room.keeper.hub_is_up()
    await room.look()
    assert len(room.engines.units) == 1
    assert await room.live() == [("l1", Phase.RUNNING)]
    room.keeper.claim(lease.id)
    await room.look()
    [moved] = await room.leases.live()
    assert (moved.server, moved.phase) == ("gpu1", Phase.RUNNING)


async def test_giving_back_on_a_server_that_is_no_longer_known_keeps_the_gpu(room: Room) -> None:
    lease = await room.leases.acquire("l1", "anna", "", exactly(0, host="its old name"))
    assert isinstance(lease, Lease)
    await room.keeper.give_back_soon(lease, "stopped")
    assert await room.live() == [("l1", Phase.LOST)]


async def test_a_silent_host_frees_nothing_until_it_was_asked(room: Room) -> None:
    lease = await room.session()
    room.engines.silent.add("gpu1")
    await room.keeper.give_back_soon(lease, "stopped")
    assert await room.live() == [("l1", Phase.LOST)]
    with pytest.raises(HostError):
        await room.keeper.look("gpu1")
    assert await room.live() == [("l1", Phase.LOST)]
    room.engines.silent.clear()
    await room.look()
    assert await room.live() == []
    assert room.engines.units == {}


async def test_giving_back_takes_away_only_what_carries_this_lease_and_this_hub(room: Room) -> None:
    lease = await room.session()
    room.engines.add("gpu1", lease, "another hub", running=True)
    other = await room.session("l2", 1)
    await room.keeper.give_back_soon(lease, "stopped")
    assert sorted((unit.lease_id, unit.hub_id) for unit in room.engines.on("gpu1")) == [
        ("l1", "another hub"),
        (other.id, "hub"),
    ]


async def test_asking_twice_to_give_back_is_one_clean_up(room: Room) -> None:
    lease = await room.session()
    assert room.keeper.give_back_soon(lease, "stopped") is room.keeper.give_back_soon(lease, "it died")
    await room.finish()
    assert await room.live() == []


async def test_a_clean_up_that_fails_is_tried_again_by_the_next_look(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await room.session()
    room.keeper.hub_is_up()

    async def fail(*_: object) -> bool:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(room.leases, "end", fail)
        room.keeper.give_back_soon(lease, "stopped")
        await room.finish()
    assert "A clean-up failed" in caplog.text
    await room.look()
    assert await room.live() == []


async def answer(room: Room, host: str) -> None:
    """Let a slow host answer the next call that reaches it."""
    await until(lambda: any(call.host == host for call in room.engines.calls))
    room.engines.work_on(next(call for call in room.engines.calls if call.host == host))


async def test_a_start_that_begins_during_a_look_is_left_alone(room: Room) -> None:
    room.engines.slow.add("gpu1")
    looking = asyncio.ensure_future(room.keeper.look("gpu1"))
    await until(lambda: room.engines.calls)  # until leases are read and containers are being listed
    room.keeper.take_in_hand("l1")
    lease = await room.leases.acquire("l1", "anna", "", exactly(0))
    assert isinstance(lease, Lease)
    room.engines.add("gpu1", lease, "hub", running=True)
    await answer(room, "gpu1")
    await looking
    assert not room.keeper._tasks
    assert await room.live() == [("l1", Phase.RESERVED)]


async def test_a_look_at_another_host_does_not_make_this_one_forget_what_began(room: Room) -> None:
    room.engines.slow |= {"gpu1", "gpu2"}
    room.engines.fresh.add("gpu1")
    first = asyncio.ensure_future(room.keeper.look("gpu1"))
    second = asyncio.ensure_future(room.keeper.look("gpu2"))
    await until(lambda: len(room.engines.calls) == 2)
    await answer(room, "gpu2")  # the look that began later ends first
    await second
    room.keeper.take_in_hand("l1")
    lease = await room.leases.acquire("l1", "anna", "", exactly(0))
    assert isinstance(lease, Lease)
    room.engines.add("gpu1", lease, "hub", running=True)
    await answer(room, "gpu1")  # with a container whose lease is younger than the list of leases
    await first
    assert not room.keeper._tasks
    assert [unit.lease_id for unit in room.engines.on("gpu1")] == ["l1"]


async def test_a_lease_claimed_and_let_go_during_a_look_is_not_judged_by_old_news(room: Room) -> None:
    room.keeper.hub_is_up()
    room.keeper.take_in_hand("l1")
    lease = await room.leases.acquire("l1", "anna", "", exactly(0))
    assert isinstance(lease, Lease)
    room.engines.slow.add("gpu1")
    looking = asyncio.ensure_future(room.keeper.look("gpu1"))
    await until(lambda: room.engines.calls)
    room.engines.add("gpu1", lease, "hub", running=True)
    await room.leases.advance(lease.id, Phase.RUNNING)
    room.keeper.claim(lease.id)
    await answer(room, "gpu1")  # with the list from before the container was there
    await looking
    assert not room.keeper._tasks
    assert await room.live() == [("l1", Phase.RUNNING)]


async def test_giving_back_waits_for_calls_under_way_and_removes_what_they_made(room: Room) -> None:
    lease = await room.leases.acquire("l1", "anna", "", exactly(0))
    assert isinstance(lease, Lease)
    room.engines.slow.add("gpu1")
    creating = asyncio.ensure_future(room.hosts["gpu1"].create(lease, "hub"))
    await asyncio.sleep(0)
    creating.cancel()
    with suppress(asyncio.CancelledError):
        await creating
    room.keeper.give_back_soon(lease, "cancelled")
    await until(lambda: room.leases.read_live()[0].phase is Phase.STOPPING)
    room.engines.slow.clear()
    await asyncio.sleep(0.1)  # time enough to end the lease too early
    assert await room.live() == [("l1", Phase.STOPPING)]
    await answer(room, "gpu1")
    await room.finish()
    assert room.engines.units == {}
    assert await room.live() == []


async def test_whoever_waits_for_the_first_list_is_told_when_it_came_or_that_it_did_not(room: Room) -> None:
    assert not await room.keeper.listed("gpu1", 0.01)
    waiting = asyncio.ensure_future(room.keeper.listed("gpu1", 20))
    await room.look()
    assert await waiting
    assert room.keeper.answering == {"gpu1"}


async def test_a_student_waits_for_the_clean_up_of_the_same_server_only(room: Room) -> None:
    lease = await room.session()
    room.engines.slow.add("gpu1")
    room.keeper.give_back_soon(lease, "stopped")
    assert await room.keeper.cleaned("anna", "second", 20)
    assert await room.keeper.cleaned("ben", "", 20)
    assert not await room.keeper.cleaned("anna", "", 0.05)
    room.engines.slow.clear()
    await answer(room, "gpu1")
    assert await room.keeper.cleaned("anna", "", 20)
    await room.finish()
    assert await room.live() == []


async def test_the_watch_says_once_that_a_host_is_silent_and_once_that_it_answers(
    room: Room, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "idl_hub.keeper")
    keeper = Keeper(room.leases, room.hosts, "hub", interval_seconds=0.01)
    for name in ("gpu1", "gpu2"):
        await keeper.look(name)
    room.engines.silent.add("gpu1")
    running = asyncio.ensure_future(keeper.run())
    try:
        await until(lambda: "gpu1 does not answer" in caplog.text)
        await asyncio.sleep(0.1)  # several looks
        room.engines.silent.clear()
        await until(lambda: "gpu1 answers again" in caplog.text)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert caplog.text.count("gpu1 does not answer; its sessions are left as they are") == 1
    assert "gpu2 does not" not in caplog.text


async def test_the_watch_outlives_a_fault_and_the_next_look_works(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    faults = iter([RuntimeError("a fault"), RuntimeError("a fault")])
    units = room.hosts["gpu1"].units

    async def faulty() -> tuple[Unit, ...]:
        if (fault := next(faults, None)) is not None:
            raise fault
        return await units()

    room.hosts["gpu1"].units = faulty  # type: ignore[method-assign]
    keeper = Keeper(room.leases, room.hosts, "hub", interval_seconds=0.01)
    running = asyncio.ensure_future(keeper.run())
    try:
        assert await keeper.listed("gpu1", 20)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert "Looking after gpu1 failed; trying again" in caplog.text
