"""A hub that many tests share, with a door in front of its engine and single spawners that tests can change."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_door import EngineDoor
from hubs import Hub, wait_for
from light import light_image

from idl_hub.db import Database
from idl_hub.db.commands import Answer, Commands

GRACE_SECONDS = 4
_CONFIG = """\
import json
from pathlib import Path

knobs = Path({knobs!r})


def turn(spawner):
    for name, value in json.loads(knobs.read_text()).get(spawner.user.name, {{}}).items():
        setattr(spawner, name, value)


c.Spawner.pre_spawn_hook = turn
c.DockerSpawner.allowed_images = {{"light": {image!r}}}
c.DockerSpawner.post_start_cmd = "touch /tmp/after-start"
c.DockerSpawner.extra_host_config = lambda spawner: {{"sysctls": {{"net.ipv4.ip_default_ttl": "77"}}}}
c.DockerSpawner.extra_create_kwargs = {{"labels": {{"course": "deep learning for {{username}}"}}}}
"""


@dataclass(frozen=True)
class Classroom:
    """The hub, the door to its engine, and the knobs of its spawners."""

    hub: Hub
    door: EngineDoor
    knobs: Path

    def turn(self, user: str, **traits: Any) -> None:
        """Give the user's next spawners these traits."""
        self.knobs.write_text(json.dumps({user: traits}), encoding="utf-8")

    def slow_start(self, user: str, seconds: float, **traits: Any) -> None:
        """Let the user's next servers take so long until they listen."""
        self.turn(user, environment={"LIGHT_DELAY_SECONDS": str(seconds)}, **traits)

    def lease_of(self, user: str) -> Any:
        """Return the user's live lease, or None."""
        return next((lease for lease in self.hub.leases(live=True) if lease.user == user), None)

    def ask(self, kind: str, **arguments: Any) -> Answer:
        """Ask the hub for something, as idl-hub web and the shell do."""
        database = Database(f"sqlite:///{self.hub.database}")
        try:
            return Commands(database).ask_and_wait(kind, arguments, "tests", 20)
        finally:
            database.close()

    def empty(self) -> None:
        """Open everything, empty the line, stop every server, and fail when something is left."""
        self.door.open()
        self.knobs.write_text("{}", encoding="utf-8")
        for (ticket,) in self.hub.rows("select id from ticket where ended_at is null"):
            self.ask("leave_line", ticket_id=ticket)
        for user in self.hub.api("GET", "/users").json():
            if user["servers"] or user["pending"]:
                self.hub.api("DELETE", f"/users/{user['name']}/server")
        wait_for(lambda: not self.hub.leftovers(), "nothing to be left", 45)
        wait_for(lambda: not self._busy(), "the hub to be done with everybody", 45)

    def _busy(self) -> list[str]:
        users = self.hub.api("GET", "/users").json()
        return [user["name"] for user in users if user["servers"] or user["pending"]]


@pytest.fixture(scope="session")
def one_classroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classroom]:
    folder = tmp_path_factory.mktemp("classroom")
    knobs = folder / "knobs.json"
    knobs.write_text("{}", encoding="utf-8")
    settings = {
        "image": light_image(),
        "call_timeout_seconds": 3,
        "stop_timeout_seconds": 2,
        "restart_grace_seconds": GRACE_SECONDS,
    }
    with tempfile.TemporaryDirectory() as short, EngineDoor(Path(short) / "engine.sock") as door:
        over = {"spawner": settings | {"engine_url": door.url}}
        config = _CONFIG.format(knobs=str(knobs), image=light_image())
        with Hub(folder / "hub", gpus=3, students=5, settings=over, config=config) as hub:
            yield Classroom(hub, door, knobs)


@pytest.fixture
def classroom(one_classroom: Classroom) -> Iterator[Classroom]:
    """The shared hub; after each test nothing of it may be left."""
    yield one_classroom
    one_classroom.empty()
