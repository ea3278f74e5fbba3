"""What the hub refuses in the quiet hours, and what it records when it is forced."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from parts import NOW, card, server
from sqlalchemy import select

from idl_hub.db.commands import DONE, REFUSED, Answer, Command
from idl_hub.db.events import Events
from idl_hub.db.tables import EventRow
from idl_hub.gpus.fleet import Fleet
from idl_hub.gpus.leases import Leases
from idl_hub.gpus.line import Line
from idl_hub.gpus.placement import Rules
from idl_hub.gpus.service import OutOfService
from idl_hub.settings_servers import QuietSettings
from idl_hub.spawners.executor import Executor

if TYPE_CHECKING:
    from collections.abc import Callable

    from idl_hub.db import Database

BEFORE_THE_DEADLINE = datetime(2026, 5, 10, 14, 0, tzinfo=UTC)
THE_DAY_AFTER = datetime(2026, 5, 11, 14, 0, tzinfo=UTC)
REQUESTS = {"drain": {"server": "gpu1"}, "exclude": {"gpu_uuid": "GPU-0"}}
BACK = {"undrain": {"server": "gpu1"}, "include": {"gpu_uuid": "GPU-0"}}


@pytest.fixture
def at(database: Database) -> Callable[[datetime], Executor]:
    """Return a hub's executor at a moment, with one server of two GPUs."""
    fleet = Fleet({"gpu1": SimpleNamespace(latest=lambda: server(card(0), card(1)))}, Rules(), lambda: NOW)
    out_of_service = OutOfService(database)
    line, events = Line(database), Events(database)

    def executor(now: datetime) -> Executor:
        keeper: Any = SimpleNamespace(leases=Leases(database), orphans=())
        nobody: Any = None  # neither the table of requests nor JupyterHub is asked
        return Executor(
            nobody, line, out_of_service, keeper, events, nobody, lambda: None, fleet, QuietSettings(), lambda: now
        )

    return executor


async def ask(executor: Executor, kind: str, **arguments: Any) -> Answer:
    return await executor.execute(Command(1, kind, arguments, "root at the shell"))


def recorded(database: Database) -> list[str]:
    return database.transact(lambda session: list(session.scalars(select(EventRow.text).order_by(EventRow.id))))


@pytest.mark.parametrize("kind", REQUESTS)
async def test_before_the_deadline_nothing_is_taken_out_of_service_and_the_reason_is_told(
    at: Callable[[datetime], Executor], database: Database, kind: str
) -> None:
    answer = await ask(at(BEFORE_THE_DEADLINE), kind, **REQUESTS[kind])
    assert answer.state == REFUSED
    assert "deadline on Sunday, 2026-05-10 18:00 (Europe/Berlin)" in answer.result
    assert "--force" in answer.result
    assert recorded(database) == []
    back = next(back for back, about in BACK.items() if about == REQUESTS[kind])
    assert (await ask(at(BEFORE_THE_DEADLINE), back, **BACK[back])).state == REFUSED  # for there is nothing to undo


@pytest.mark.parametrize("kind", REQUESTS)
async def test_forced_it_is_done_and_the_record_says_so(
    at: Callable[[datetime], Executor], database: Database, kind: str
) -> None:
    assert (await ask(at(BEFORE_THE_DEADLINE), kind, reason="it burns", force=True, **REQUESTS[kind])).state == DONE
    (text,) = recorded(database)
    assert text.endswith("it burns, forced in the quiet hours (root at the shell)")


@pytest.mark.parametrize("kind", REQUESTS)
async def test_on_other_days_it_is_done_without_force_and_force_leaves_no_trace(
    at: Callable[[datetime], Executor], database: Database, kind: str
) -> None:
    assert (await ask(at(THE_DAY_AFTER), kind, reason="new fans", force=True, **REQUESTS[kind])).state == DONE
    assert all("quiet" not in text for text in recorded(database))


async def test_what_is_out_of_service_comes_back_at_any_time(at: Callable[[datetime], Executor]) -> None:
    for kind, about in REQUESTS.items():
        assert (await ask(at(THE_DAY_AFTER), kind, **about)).state == DONE
    for kind, about in BACK.items():
        assert (await ask(at(BEFORE_THE_DEADLINE), kind, **about)).state == DONE
