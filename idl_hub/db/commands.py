"""Requests to the hub: other processes write them, the hub alone executes them and says what came of it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from idl_hub.db.tables import CommandRow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session

    from idl_hub.db.database import Database

ASKED, DONE, REFUSED = "asked", "done", "refused"
_LOOK_EVERY_SECONDS = 0.1
_FORGOTTEN_AFTER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Command:
    """A request that waits for the hub."""

    id: int
    kind: str
    arguments: Mapping[str, Any]
    asked_by: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: asked (nothing yet), done or refused, and why in words."""

    state: str
    result: str


class Commands:
    """The table of requests."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def ask(self, kind: str, arguments: Mapping[str, Any], asked_by: str) -> int:
        """Write a request down and return its number."""
        return await self._database.run(self._insert(kind, arguments, asked_by))

    async def answer(self, command_id: int, timeout_seconds: float) -> Answer:
        """Wait until the hub has answered; when it has not in time, the state is still asked."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            answer = await self._database.run(lambda session: _answer(session, command_id))
            if answer.state != ASKED or time.monotonic() >= deadline:
                return answer
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    def ask_and_wait(self, kind: str, arguments: Mapping[str, Any], asked_by: str, timeout_seconds: float) -> Answer:
        """Ask and wait for the answer, for the shell; blocks."""

        async def both() -> Answer:
            return await self.answer(await self.ask(kind, arguments, asked_by), timeout_seconds)

        return asyncio.run(both())

    async def waiting(self) -> tuple[Command, ...]:
        """Return what the hub has not executed yet, oldest first.

        What has waited for more than a minute is refused: who asked has gone, and may not expect it any more.
        """

        def look(session: Session) -> tuple[Command, ...]:
            rows = session.scalars(select(CommandRow).where(CommandRow.state == ASKED).order_by(CommandRow.id))
            found = []
            for row in rows:
                if row.asked_at < self._clock() - _FORGOTTEN_AFTER_SECONDS:
                    row.state, row.result, row.done_at = REFUSED, "The hub was away. Ask again.", self._clock()
                else:
                    found.append(Command(row.id, row.kind, json.loads(row.arguments), row.asked_by))
            return tuple(found)

        return await self._database.run(look)

    async def settle(self, command_id: int, answer: Answer) -> None:
        """Write down what came of a request."""

        def write(session: Session) -> None:
            row = session.get_one(CommandRow, command_id)
            row.state, row.result, row.done_at = answer.state, answer.result, self._clock()

        await self._database.run(write)

    def _insert(self, kind: str, arguments: Mapping[str, Any], asked_by: str) -> Callable[[Session], int]:
        def insert(session: Session) -> int:
            row = CommandRow(
                kind=kind,
                arguments=json.dumps(dict(arguments)),
                asked_by=asked_by,
                asked_at=self._clock(),
                state=ASKED,
            )
            session.add(row)
            session.flush()
            return row.id

        return insert


def _answer(session: Session, command_id: int) -> Answer:
    row = session.get(CommandRow, command_id)
    return Answer(row.state, row.result or "") if row else Answer(REFUSED, "There is no such request.")
