"""The ledger of leases, on SQLite and on Postgres."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ledger import Ledger
from parts import exactly, lowest_free, opened
from sqlalchemy.exc import IntegrityError

from idl_hub.gpus.leases import Lease, Leases, Phase, new_lease_id
from idl_hub.gpus.placement import NoGPU

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idl_hub.db import Database
    from idl_hub.gpus.placement import Choice

TESTS = Path(__file__).parents[1]
RACERS = 3
ROUNDS = 60


async def take(leases: Leases, user: str = "anna", gpu_count: int = 1, cards: int = 8) -> Lease:
    got = await leases.acquire(new_lease_id(), user, "", lowest_free(gpu_count, cards))
    assert isinstance(got, Lease)
    return got


async def test_a_lease_is_written_down_as_it_was_chosen(database: Database) -> None:
    leases = Ledger(database, clock=lambda: 42.0)
    got = await leases.acquire("lease1", "anna", "second", exactly(5))
    assert isinstance(got, Lease)
    assert (got.id, got.phase, got.server, got.user, got.server_name) == (
        "lease1",
        Phase.RESERVED,
        "gpu1",
        "anna",
        "second",
    )
    assert [(gpu.uuid, gpu.index, gpu.slot) for gpu in got.gpus] == [("GPU-5", 5, 0)]
    assert (got.kind, got.reason, got.reserved_at, got.container_id) == ("session", "asked for", 42.0, None)
    assert await leases.live() == leases.read_live() == (got,)


async def test_whoever_chooses_is_told_who_holds_what(database: Database) -> None:
    leases = Ledger(database)
    await leases.acquire("lease1", "anna", "", exactly(0))
    await leases.acquire("lease2", "ben", "second", exactly(1, 2))
    seen: list[Mapping[str, str]] = []

    def choose(holders: Mapping[str, str]) -> Choice | NoGPU:
        seen.append(holders)
        return NoGPU("none", ())

    assert await leases.acquire("lease3", "cem", "", choose) == NoGPU("none", ())
    assert seen == [{"GPU-0": "anna", "GPU-1": "ben:second", "GPU-2": "ben:second"}]
    assert not await leases.known("lease3")


async def test_all_cards_are_given_out_once_and_then_none(database: Database) -> None:
    leases = Ledger(database)
    got = [await leases.acquire(new_lease_id(), f"u{n}", "", lowest_free(1)) for n in range(10)]
    assert [lease.gpus[0].uuid for lease in got if isinstance(lease, Lease)] == [f"GPU-{n}" for n in range(8)]
    assert [refused.reason for refused in got if isinstance(refused, NoGPU)] == ["of 8 GPUs: 8 taken"] * 2


async def test_the_database_itself_forbids_a_second_holder(database: Database) -> None:
    leases = Ledger(database)
    await leases.acquire("lease1", "anna", "", exactly(0))
    with pytest.raises(IntegrityError):
        await leases.acquire("lease2", "ben", "", exactly(0))
    assert [lease.id for lease in await leases.live()] == ["lease1"]


async def test_a_lease_of_several_cards_gets_all_or_none(database: Database) -> None:
    leases = Ledger(database)
    await leases.acquire("lease1", "anna", "", exactly(1))
    with pytest.raises(IntegrityError):
        await leases.acquire("lease2", "ben", "", exactly(0, 1))
    assert (await take(leases, cards=1)).gpus[0].uuid == "GPU-0"


async def test_an_ended_lease_frees_its_cards_and_stays_in_the_books(database: Database) -> None:
    leases = Ledger(database)
    first = await take(leases, cards=1)
    assert await leases.end(first.id, "stopped")
    assert await leases.live() == ()
    assert await leases.known(first.id)
    assert (await take(leases, user="ben", cards=1)).gpus == first.gpus


async def test_ending_twice_changes_nothing_and_says_so(database: Database) -> None:
    leases = Ledger(database)
    first = await take(leases, cards=1)
    await leases.end(first.id, "stopped")
    second = await take(leases, user="ben", cards=1)
    assert not await leases.end(first.id, "stopped again")
    assert [lease.id for lease in await leases.live()] == [second.id]
    assert not await leases.end("never heard of", "stopped")


async def test_an_ended_lease_does_not_come_back_to_life(database: Database) -> None:
    leases = Ledger(database)
    lease = await take(leases)
    await leases.end(lease.id, "stopped")
    assert not await leases.advance(lease.id, Phase.RUNNING)
    assert not await leases.advance("never heard of", Phase.RUNNING)
    assert await leases.live() == ()


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
async def test_a_lease_holds_its_cards_in_every_phase_of_its_life(database: Database, phase: Phase) -> None:
    leases = Ledger(database)
    lease = await take(leases, cards=1)
    assert await leases.advance(lease.id, phase)
    assert isinstance(await leases.acquire("lease2", "ben", "", lowest_free(1, 1)), NoGPU)


async def test_the_container_is_remembered_through_later_phases(database: Database) -> None:
    leases = Ledger(database)
    lease = await take(leases)
    await leases.advance(lease.id, Phase.CREATING, "c0ffee")
    await leases.advance(lease.id, Phase.LOST)
    (found,) = await leases.live()
    assert (found.phase, found.container_id) == (Phase.LOST, "c0ffee")


async def test_a_session_without_gpu_has_a_lease_that_holds_none(database: Database) -> None:
    leases = Ledger(database)
    assert (await take(leases, gpu_count=0)).gpus == ()
    assert (await take(leases, cards=1)).gpus[0].uuid == "GPU-0"


async def test_leases_are_listed_oldest_first(database: Database) -> None:
    times = iter((3.0, 1.0, 2.0))
    leases = Ledger(database, clock=lambda: next(times))
    for name in ("late", "early", "middle"):
        await leases.acquire(name, "anna", "", lowest_free(1))
    assert [lease.id for lease in await leases.live()] == ["early", "middle", "late"]


async def test_everything_is_found_again_after_a_restart(database_url: str) -> None:
    with opened(database_url) as database:
        leases = Ledger(database)
        hub_id, lease = leases.read_hub_id(), await take(leases)
    with opened(database_url) as database:
        leases = Ledger(database)
        assert leases.read_hub_id() == hub_id
        assert leases.read_live() == (lease,)


def test_many_processes_never_hold_one_card_at_the_same_time(database_url: str, tmp_path: Path) -> None:
    with opened(database_url):
        pass
    notes = tmp_path / "notes"
    notes.mkdir()
    command = [sys.executable, str(TESTS / "lease_racer.py"), database_url, str(notes), str(ROUNDS), "2"]
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    racers = [
        subprocess.Popen(
            command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(RACERS)
    ]
    try:
        hub_ids = {racer.stdout.readline() for racer in racers if racer.stdout}
        faults = [racer.communicate("go\n", timeout=120)[1] for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
    assert [(racer.returncode, fault[-2000:]) for racer, fault in zip(racers, faults, strict=True)] == [
        (0, "")
    ] * RACERS
    assert len(hub_ids) == 1
    with opened(database_url) as database:
        assert Ledger(database).read_live() == ()
        with database.engine.connect() as connection:
            (count,) = connection.exec_driver_sql("SELECT count(*) FROM lease").one()
    assert count == RACERS * ROUNDS
