"""The keeper's hosts: silent ones, and those that come and go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from keeping import FakeHost, Room
from parts import exactly, opened, sqlite_url

from idl_hub.gpus.leases import Lease, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with opened(sqlite_url(tmp_path)) as database:
        yield Room(database)


async def test_a_silent_host_gets_no_sessions_until_it_was_looked_at_again(room: Room) -> None:
    await room.look()
    assert await room.keeper.answers("gpu1")
    room.engines.silent.add("gpu1")
    assert not await room.keeper.answers("gpu1")
    silence = room.keeper.silence("gpu1")
    assert silence is not None
    assert "no connection" in silence.why
    assert room.keeper.answering == frozenset()
    room.engines.silent.clear()
    await room.look()
    assert room.keeper.answering == {"gpu1"}
    assert room.keeper.silence("gpu1") is None


async def test_since_when_a_host_is_silent_is_when_it_fell_silent(room: Room) -> None:
    room.engines.silent.add("gpu1")
    assert not await room.keeper.answers("gpu1")
    first = room.keeper.silence("gpu1")
    assert not await room.keeper.answers("gpu1")
    assert room.keeper.silence("gpu1") == first


async def test_a_host_that_joins_is_looked_after_and_one_that_leaves_is_let_go(room: Room) -> None:
    running = asyncio.create_task(room.keeper.run())
    await asyncio.sleep(0)
    room.keeper.join(FakeHost("gpu3", room.engines))
    assert await room.keeper.listed("gpu3", timeout_seconds=5)
    assert "gpu3" in room.keeper.answering
    room.keeper.leave("gpu3")
    assert "gpu3" not in room.keeper.answering
    with pytest.raises(ValueError, match="gpu1 is there already"):
        room.keeper.join(FakeHost("gpu1", room.engines))
    running.cancel()


async def test_a_host_that_is_retired_keeps_its_sessions_and_gets_no_more(room: Room) -> None:
    await room.session()
    room.keeper.hub_is_up()
    room.keeper.retire("gpu1")
    await room.look()
    assert room.keeper.answering == frozenset()
    assert await room.live() == [("l1", Phase.RUNNING)]


async def test_a_lease_for_which_nothing_was_made_ends_without_its_host(room: Room) -> None:
    room.engines.silent.add("gpu1")
    freed: list[bool] = []
    room.keeper.on_freed = lambda: freed.append(True)
    room.keeper.take_in_hand("l1")
    lease = await room.leases.acquire("l1", "anna", "", exactly(0, host="gpu1"))
    assert isinstance(lease, Lease)
    await room.keeper.end_unused(lease, "gpu1 did not answer")
    assert await room.live() == []
    assert freed == [True]
