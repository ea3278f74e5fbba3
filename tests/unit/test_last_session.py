"""How a student's last session ended, as the hub's pages say it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from ledger import Ledger
from parts import NOW, exactly, opened

from idl_hub.db.events import Events
from idl_hub.gpus.leases import Lease, new_lease_id
from idl_hub.spawners.last_session import Ended, find

if TYPE_CHECKING:
    from collections.abc import Iterator

    from idl_hub.db import Database

KILLED = "it was killed because it used 26 of 26 GB of memory"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with opened(database_url) as database:
        yield database


def session_that_ended(database: Database, ending: str, *, at: float = NOW, ready: bool = True) -> str:
    """Write down a session of alice's and its end; return its lease."""
    now = at - 60
    leases = Ledger(database, clock=lambda: now)

    async def live() -> str:
        nonlocal now
        lease = await leases.acquire(new_lease_id(), "alice", "", exactly(0))
        assert isinstance(lease, Lease)
        if ready:
            await leases.ready(lease.id, None)
        now = at
        await leases.end(lease.id, ending)
        return lease.id

    return asyncio.run(live())


def last(database: Database, *, user: str = "alice", server_name: str = "", now: float = NOW + 60) -> Ended | None:
    return database.transact(lambda session: find(session, user, server_name, now))


def test_a_session_that_ran_out_of_memory_is_told_with_its_time(database: Database) -> None:
    session_that_ended(database, KILLED)
    ended = last(database)
    assert ended == Ended(NOW, KILLED)
    assert "/tmp" in ended.advice
    assert ended.moment.isoformat() == "1970-01-12T13:46:40+00:00"


def test_only_the_holder_of_that_server_is_told(database: Database) -> None:
    session_that_ended(database, KILLED)
    assert last(database, user="bob") is None
    assert last(database, server_name="another") is None


def test_who_stopped_the_server_is_not_told_so(database: Database) -> None:
    session_that_ended(database, "stopped")
    assert last(database) is None


def test_why_the_hub_stopped_a_server_is_told(database: Database) -> None:
    lease = session_that_ended(database, "stopped")
    events = Events(database, clock=lambda: NOW)
    asyncio.run(events.note("stop", "stopped: the GPU was idle while others waited", user="alice", lease_id=lease))
    assert last(database) == Ended(NOW, "the GPU was idle while others waited")


@pytest.mark.parametrize("code", [0, 143])
def test_a_server_that_shut_itself_down_is_told_in_plain_words(database: Database, code: int) -> None:
    session_that_ended(database, f"its container ended (exit code {code})")
    ended = last(database)
    assert ended is not None
    assert "shut itself down" in ended.words
    assert ended.advice == ""


def test_a_start_that_came_to_nothing_is_not_told_again(database: Database) -> None:
    session_that_ended(database, "its start failed: no image", ready=False)
    assert last(database) is None


def test_only_the_newest_session_counts(database: Database) -> None:
    session_that_ended(database, KILLED, at=NOW - 600)
    session_that_ended(database, "stopped")
    assert last(database) is None


def test_after_a_week_it_is_no_news(database: Database) -> None:
    session_that_ended(database, KILLED)
    assert last(database, now=NOW + 5 * 86400) is not None
    assert last(database, now=NOW + 7 * 86400) is None
