"""Sessions whose server does not answer: the rules, their table, the program that fences, and who is told what."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ledger import Ledger
from parts import exactly, opened, sqlite_url

from idl_hub.db.events import Events
from idl_hub.db.tables import LeaseRow
from idl_hub.gpus.fences import Fences, left_behind
from idl_hub.gpus.idle import IdleTracker
from idl_hub.gpus.leases import Lease, Phase
from idl_hub.gpus.line import Line
from idl_hub.gpus.members import Member
from idl_hub.gpus.reclaim import Policy
from idl_hub.gpus.silence import Fence, Stage, may_lift, stage
from idl_hub.homes.fence_command import FenceError, call
from idl_hub.spawners.sessions import Sessions
from idl_hub.web import silence
from idl_hub.web.records import Held, Records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from idl_hub.db import Database

GRACE = 600.0
SINCE = 1_000_000.0
ASKED = Fence("lease1", "gpu03", "anna", "anna", called=True)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(sqlite_url(tmp_path)) as database:
        yield database


async def running(database: Database, lease_id: str = "lease1", *, ready: bool = True) -> Lease:
    """Return a committed lease of a session that runs."""
    ledger = Ledger(database)
    lease = await ledger.acquire(lease_id, "anna", "", exactly(0, host="gpu03"))
    assert isinstance(lease, Lease)
    if ready:
        await ledger.ready(lease.id, None)
    return replace(lease, phase=Phase.RUNNING)


# -- the rules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "fence", "after", "expected"),
    [
        (None, None, 0, Stage.ANSWERS),
        (SINCE, None, 0, Stage.WAIT),
        (SINCE, None, GRACE - 1, Stage.WAIT),
        (SINCE, None, GRACE, Stage.LOST),
        (SINCE, ASKED, GRACE, Stage.CUTTING),
        (SINCE, replace(ASKED, failure="it hangs"), GRACE, Stage.UNCUT),
        (None, replace(ASKED, failure="it hangs"), GRACE, Stage.ANSWERS),
        (SINCE, replace(ASKED, cut_at=SINCE), GRACE, Stage.LETTING_GO),
        (SINCE, replace(ASKED, accepted_at=SINCE, failure="it hangs"), GRACE, Stage.LETTING_GO),
        (SINCE, replace(ASKED, cut_at=SINCE, stopped_at=SINCE), GRACE, Stage.FREE),
        (None, replace(ASKED, cut_at=SINCE, stopped_at=SINCE), GRACE, Stage.FREE),
    ],
)
def test_how_far_a_session_with_a_silent_server_is(
    since: float | None, fence: Fence | None, after: float, expected: Stage
) -> None:
    assert stage(since, fence, GRACE, SINCE + after) is expected


@pytest.mark.parametrize(
    ("fence", "answers", "lease_is_live", "expected"),
    [
        (replace(ASKED, cut_at=SINCE), False, True, False),
        (replace(ASKED, cut_at=SINCE), False, False, False),
        (replace(ASKED, cut_at=SINCE), True, True, False),
        (replace(ASKED, accepted_at=SINCE), True, True, False),
        (replace(ASKED, cut_at=SINCE), True, False, True),
        (replace(ASKED, failure="it hangs"), True, True, True),
        (replace(ASKED, failure="it hangs"), False, True, False),
    ],
)
def test_a_server_may_write_again_when_it_is_back_and_what_was_given_up_there_is_gone(
    fence: Fence, answers: bool, lease_is_live: bool, expected: bool
) -> None:
    assert may_lift(fence, answers, lease_is_live) is expected


# -- the table ---------------------------------------------------------------------------------------------


async def test_a_session_is_given_up_in_the_transaction_that_says_why(database: Database) -> None:
    fences, lease = Fences(database), await running(database)
    await fences.ask(lease, "anna")
    assert (await Ledger(database).live())[0].phase is Phase.RUNNING
    assert await fences.cut(lease)
    assert (await Ledger(database).live())[0].phase is Phase.LOST
    [fence] = await fences.open()
    assert fence.holds
    await fences.lift(lease.id)
    assert await fences.open() == ()


async def test_a_session_that_ended_meanwhile_stays_ended(database: Database) -> None:
    fences, lease = Fences(database), await running(database)
    await Ledger(database).end(lease.id, "its container ended")
    assert not await fences.accept(lease, "anna")
    assert await Ledger(database).live() == ()


async def test_what_was_being_cut_off_when_the_hub_died_is_asked_for_again_and_called_back(database: Database) -> None:
    fences, lease = Fences(database), await running(database)
    await fences.ask(lease, "anna")
    [fence] = Fences(database).load()
    assert (fence.failure, fence.called, fence.holds) == ("the hub was started again meanwhile", True, False)
    await fences.ask(lease, "anna")
    [fence] = await fences.open()
    assert fence.failure is None


async def test_a_second_silence_of_a_session_that_went_on_begins_anew(database: Database) -> None:
    fences, lease = Fences(database), await running(database)
    await fences.ask(lease, "anna")
    await fences.fail(lease.id, "gpu03 answers again")
    await fences.lift(lease.id)
    await fences.accept(lease, "anna")
    [fence] = await fences.open()
    assert (fence.called, fence.failure) == (False, None)


async def test_only_sessions_that_somebody_was_let_into_are_left_behind(database: Database) -> None:
    ledger = Ledger(database)
    for lease_id, ready, phase in (("never", False, Phase.LOST), ("lost", True, Phase.LOST)):
        lease = await running(database, lease_id, ready=ready)
        await ledger.advance(lease.id, phase)
        await database.run(lambda session, one=lease_id: _free_gpus(session.get_one(LeaseRow, one)))
    found = await database.run(lambda session: left_behind(session, "anna", ""))
    assert [lease.id for lease in found] == ["lost"]
    assert await database.run(lambda session: left_behind(session, "anna", "second")) == ()


def _free_gpus(row: LeaseRow) -> None:
    for gpu in row.gpus:
        gpu.released_at = 1.0


# -- the program -------------------------------------------------------------------------------------------


def program(folder: Path, text: str) -> list[str]:
    file = folder / "fence"
    file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    file.chmod(0o755)
    return [str(file), "--server"]


async def test_the_program_is_told_what_to_do_and_for_whom(tmp_path: Path) -> None:
    command = program(tmp_path, f'echo "$*" > {tmp_path}/told')
    await call(command, "fence", "gpu03", "anna", 10)
    assert (tmp_path / "told").read_text() == "--server fence gpu03 anna\n"


async def test_the_program_does_not_get_the_hubs_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "secret")
    await call(program(tmp_path, f"env > {tmp_path}/told"), "fence", "gpu03", "anna", 10)
    assert "secret" not in (tmp_path / "told").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [("echo first; echo 'no such export' >&2; exit 3", "ended with 3: no such export"), ("exit 1", "printed nothing")],
)
async def test_a_program_that_fails_says_why(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FenceError, match=words):
        await call(program(tmp_path, text), "fence", "gpu03", "anna", 10)


async def test_a_missing_program_is_named() -> None:
    with pytest.raises(FenceError, match="/nowhere/fence cannot be run"):
        await call(["/nowhere/fence"], "fence", "gpu03", "anna", 10)


async def test_a_program_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    command = program(tmp_path, f"sleep 300 & echo $! > {tmp_path}/child; wait")
    began = time.monotonic()
    with pytest.raises(FenceError, match=r"was not done within 0\.5 s"):
        await call(command, "fence", "gpu03", "anna", 0.5)
    assert time.monotonic() - began < 10
    child = int((tmp_path / "child").read_text())
    async with asyncio.timeout(10):
        while _lives(child):  # noqa: ASYNC110 - a process of another one sends no event
            await asyncio.sleep(0.02)


async def test_what_the_program_leaves_behind_holds_nobody_up(tmp_path: Path) -> None:
    # In a session of its own, out of reach, and with the program's output still in its hands.
    command = program(tmp_path, f"setsid sleep 300 & echo $! > {tmp_path}/child")
    try:
        await call(command, "fence", "gpu03", "anna", 10)
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- its end -----------------------------------------------------------------------------------------------


@dataclass
class Stops:
    """Stands in for JupyterHub and for GPUs that nobody reads."""

    stopped: list[str] = field(default_factory=list)

    async def stop(self, user: str, _server_name: str) -> None:
        self.stopped.append(user)

    def servers(self) -> tuple[()]:
        return ()


async def test_a_session_beyond_its_limit_is_ended_when_its_server_can_tell_its_holder(database: Database) -> None:
    lease, hub, silent = await running(database), Stops(), {"gpu03"}
    await Ledger(database).announce_end(lease.id, time.time() - 60, "the limit")
    sessions = Sessions(
        database,
        hub,  # type: ignore[arg-type]
        IdleTracker(),
        Line(database),
        Events(database),
        hub,  # type: ignore[arg-type]
        Policy(),
        silent=silent.__contains__,
    )
    await sessions.look()
    assert hub.stopped == []
    silent.clear()
    await sessions.look()
    assert hub.stopped == ["anna"]


# -- who is told what --------------------------------------------------------------------------------------


def told(records: Records, now: float = SINCE + GRACE) -> dict[str, object] | None:
    held = Held("lease1", "session", "gpu03", "anna", "", "running", 1.0, 2.0, None, None, None, "c1", None, ())
    return silence.about(held, records, silence.Terms(GRACE, can_cut=True), now)


def test_nothing_is_said_while_the_server_answers() -> None:
    assert told(Records(members=(Member("gpu03", None),))) is None


def test_nothing_is_said_before_the_hub_has_written_down_its_servers() -> None:
    assert told(Records()) is None


def test_the_holder_learns_since_when_and_what_can_be_done() -> None:
    found = told(Records(members=(Member("gpu03", None, silent_since=SINCE, fault="no route"),)))
    assert found is not None
    assert (found["stage"], found["since"], found["offered_at"]) == ("lost", SINCE, SINCE + GRACE)
    assert found["can_cut"] is True


def test_who_gave_up_a_session_may_start_also_when_its_server_is_back() -> None:
    fence = replace(ASKED, cut_at=SINCE, stopped_at=SINCE)
    found = told(Records(members=(Member("gpu03", None),), fences=(fence,)))
    assert found is not None
    assert (found["stage"], found["since"]) == ("free", None)


def test_a_server_that_is_not_in_the_settings_any_more_is_lost_at_once() -> None:
    found = told(Records(members=(Member("gpu04", None),)))
    assert found is not None
    assert (found["stage"], found["since"]) == ("lost", None)
