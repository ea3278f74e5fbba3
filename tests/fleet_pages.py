"""`idl-hub web` over a made-up fleet, for tests of its pages: the real application, hub and database.

There are ten servers with GPUs and one without. Run as a program beside a test's hub:
``python fleet_pages.py DATABASE_URL``. What cannot be had is stood in for: the GPUs, and the hub's executor (each
request is done at once in the table, with a result that names it).
A file ``silent-SERVER`` in the current directory stops a server's readings, ``idle`` leaves all GPUs alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from parts import card
from sqlalchemy import select
from tornado.httpserver import HTTPServer

from idl_hub import settings as settings_module
from idl_hub.db import Database, Reader
from idl_hub.db.commands import DONE, Answer, Commands
from idl_hub.db.tables import LeaseRow, OutOfServiceRow, TicketRow
from idl_hub.gpus.fleet import Fleet
from idl_hub.gpus.placement import Rules
from idl_hub.gpus.reading import HEALTHY, Health, HealthState, ServerFigures, ServerReading
from idl_hub.gpus.reclaim import Policy
from idl_hub.web import application
from idl_hub.web.live import Live
from idl_hub.web.picture import Terms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

    from idl_hub.db.commands import Command
    from idl_hub.gpus.reading import GPU

SERVERS = tuple(f"gpu{number:02}" for number in range(1, 11))
_GIB = 2**30


def uuid_of(server: str, index: int) -> str:
    """Return the UUID of a made-up GPU."""
    return f"GPU-{server}-{index}"


def _gpu(server: str, index: int, moment: float) -> GPU:
    number = SERVERS.index(server) * 8 + index
    uuid = uuid_of(server, index)
    if number == 21:
        return card(index, uuid=uuid).without_values(Health(HealthState.LOST, 15, "it fell off the bus"))
    if number % 10 >= 7 or number >= 70 or Path("idle").exists():
        return card(index, uuid=uuid)
    load = 0.5 + 0.45 * math.sin(moment / (300 + number * 7) + number) + 0.05 * math.sin(moment / 3 + number)
    return card(
        index,
        uuid=uuid,
        utilization_ratio=load,
        memory_used_bytes=int((1 + 9 * load) * _GIB),
        temperature_celsius=round(40 + 40 * load),
    )


class Source:
    """Readings of one server that breathes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: ServerReading | None = None

    def latest(self) -> ServerReading | None:
        """Return the newest reading: one a second, until told to fall silent."""
        second = float(int(time.time()))
        if (self._last is None or self._last.taken_at < second) and not Path(f"silent-{self._name}").exists():
            self._last = self.at(second)
        return self._last

    def at(self, moment: float) -> ServerReading:
        """Return the reading of a moment."""
        figures = ServerFigures(24, 0.4, 9.0, 9.0, 9.0, 256 * _GIB, 120 * _GIB, 0.0)
        gpus = tuple(_gpu(self._name, index, moment) for index in range(8))
        return ServerReading(self._name, moment, HEALTHY, gpus, "580.95.05", simulated=True, figures=figures)


def past_hour(name: str) -> Iterator[ServerReading]:
    """Yield readings of the last hour, as if the pages had been up so long."""
    now = int(time.time())
    for moment in range(now - 3600, now, 5):
        yield Source(name).at(float(moment))


def execute(session: Session, command: Command) -> str:
    """Do in the table what the hub would do, and return its words."""
    told, now = command.arguments, time.time()
    if command.kind in ("drain", "exclude"):
        kind, target = ("server", told["server"]) if command.kind == "drain" else ("gpu", told["gpu_uuid"])
        session.add(OutOfServiceRow(kind=kind, target=target, reason=told["reason"], by=command.asked_by, since=now))
    elif command.kind in ("undrain", "include", "end_orphan"):
        target = told.get("server") or told["gpu_uuid"]
        for mark in session.scalars(select(OutOfServiceRow).where(OutOfServiceRow.target == target)):
            mark.ended_at = now
    elif command.kind == "end_session":
        lease = session.get_one(LeaseRow, told["lease_id"])
        lease.phase, lease.ended_at = "ended", now
        for gpu in lease.gpus:
            gpu.released_at = now
    elif command.kind == "leave_line":
        ticket = session.get_one(TicketRow, told["ticket_id"])
        ticket.state, ticket.ended_at = "left", now
    elif command.kind == "to_front":
        session.get_one(TicketRow, told["ticket_id"]).place = 0
    return f"{command.kind} {json.dumps(dict(told), sort_keys=True)}"


async def _execute_all(database: Database) -> None:
    commands = Commands(database)
    while True:
        for command in await commands.waiting():
            result = await database.run(lambda session, command=command: execute(session, command))
            await commands.settle(command.id, Answer(DONE, result))
        await asyncio.sleep(0.1)


async def main(database_url: str) -> None:
    """Serve until killed."""
    settings = settings_module.load(settings_module.files_from_environment())
    # The students' servers of this fleet would be containers, so the pages do not warn.
    isolating = settings.spawner.model_copy(update={"kind": "docker"})
    settings = settings.model_copy(update={"spawner": isolating})
    database = Database(database_url)
    database.upgrade()
    sources: dict[str, Source | None] = {name: Source(name) for name in SERVERS}
    sources["cpu01"] = None  # a server without GPUs
    rules = Rules(reading_max_age_seconds=3)
    fleet = Fleet(sources, rules, closed=lambda: live.closed())  # noqa: PLW0108 - it comes next
    for name in SERVERS:
        for reading in past_hour(name):
            fleet._memory.follow(reading)
    live = Live(fleet, Reader(database_url), Terms(Policy(), 600))
    app = application.make(settings, live, database, application.hub_auth(settings))
    HTTPServer(app).listen(settings.hub.web_port, "127.0.0.1")
    await asyncio.gather(fleet.run(), live.run(), _execute_all(database))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sys.argv[1]))
