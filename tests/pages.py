"""A real hub whose GPU pages show a made-up fleet, with sessions and a line: for tests of pages and REST."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from fleet_pages import SERVERS, uuid_of
from hubs import Hub
from sqlalchemy import delete

from idl_hub.db import Database
from idl_hub.db.tables import CommandRow, LeaseGPURow, LeaseRow, OutOfServiceRow, TicketRow

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "/services/web/"
_TABLES = (LeaseGPURow, LeaseRow, TicketRow, OutOfServiceRow, CommandRow)


@dataclass(frozen=True)
class Pages:
    """The hub, and the database that its pages show."""

    hub: Hub
    database: Database

    def reset(self) -> None:
        """Put sessions, line and marks back to how every test finds them."""
        self.database.transact(_fill)

    def add(self, *rows: Any) -> None:
        """Add rows to the tables."""
        self.database.transact(lambda session: session.add_all(rows))

    def token(self, user: str, scopes: list[str] | None = None) -> str:
        """Return a token of a person, with all they may or these scopes."""
        answer = self.hub.api("POST", f"/users/{user}/tokens", {"scopes": scopes} if scopes else {})
        assert answer.ok, answer.text
        return str(answer.json()["token"])

    def call(self, method: str, path: str, token: str | None, body: Any = None) -> requests.Response:
        """Call the REST interface with a token."""
        headers = {"Authorization": f"token {token}"} if token else {}
        return requests.request(
            method, self.hub.url + PREFIX + path, headers=headers, json=body, timeout=30, allow_redirects=False
        )

    def events(self, token: str, seconds: float = 20) -> Iterator[tuple[str, Any]]:
        """Yield server-sent events: name and data."""
        url = f"{self.hub.url}{PREFIX}api/events"
        headers = {"Authorization": f"token {token}"}
        with requests.get(url, headers=headers, stream=True, timeout=seconds) as answer:
            assert answer.status_code == 200, answer.text
            name = ""
            for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))


def start(folder: Path) -> Iterator[Pages]:
    """Start hub and pages; to be used by a fixture with ``yield from``."""
    url = f"sqlite:///{folder / 'pages.sqlite'}"
    program = str(Path(__file__).with_name("fleet_pages.py"))
    with closing(Database(url)) as database:
        database.upgrade()
        with Hub(folder / "hub", kind="process", gpus=1, students=60, web=[program, url]) as hub:
            pages = Pages(hub, database)
            pages.reset()
            yield pages
            print(hub.log_tail())


def held(number: int, server: str, index: int, user: str, **over: Any) -> LeaseRow:
    """Return the row of a running session with one GPU."""
    now = time.time()
    values: dict[str, Any] = {
        "id": f"lease{number}",
        "kind": "session",
        "server": server,
        "user": user,
        "server_name": "",
        "phase": "running",
        "reason": "best of 80 free ones",
        "reserved_at": now - 3600,
        "ready_at": now - 3590,
        "ends_at": now + 600 + number * 200,
        "container_id": "c" * 64,
    }
    lease = LeaseRow(**(values | over))
    lease.gpus = [
        LeaseGPURow(gpu_uuid=uuid_of(server, index), gpu_index=index, gpu_name="NVIDIA GeForce GTX 1080 Ti", slot=0)
    ]
    return lease


def waiting(number: int, user: str, **over: Any) -> TicketRow:
    """Return the row of a place in the line; lower numbers came first."""
    came = time.time() - 900 + number * 200
    values: dict[str, Any] = {"id": f"ticket{number}", "user": user, "server_name": "", "gpu_count": 1}
    values |= {"options": "{}", "state": "waiting", "created_at": came, "place": came, "attempts": 0}
    return TicketRow(**(values | over))


def _fill(session: Any) -> None:
    for table in _TABLES:
        session.execute(delete(table))
    now, number = time.time(), 0
    for place in range(70):
        server, index = SERVERS[place // 8], place % 8
        if place % 10 < 7 and place != 21:
            number += 1
            session.add(held(number, server, index, f"student{number}"))
    session.add_all(waiting(number, f"student{57 + number}") for number in range(3))
    session.add(OutOfServiceRow(kind="gpu", target=uuid_of("gpu05", 7), reason="fan is loud", by="admin", since=now))
    session.add(OutOfServiceRow(kind="server", target="gpu10", reason="new disk", by="admin", since=now))
