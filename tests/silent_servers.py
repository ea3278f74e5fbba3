"""Two servers for tests of silence: this machine's engine behind two doors, and a program that fences."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from engine_door import EngineDoor
from hubs import Hub, docker, wait_for
from light import light_image

from idl_hub.homes.store import MARKER

if TYPE_CHECKING:
    from collections.abc import Iterator

SILENT, OTHER = "gpu01", "gpu02"
GRACE_SECONDS = 3.0
FENCED_WITHIN_SECONDS = 10.0
SUDO = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
_FENCE = """\
#!/bin/sh
# Notes what it is called with, and which containers of this student there are; takes the home away from those.
containers=$(docker ps -aq --no-trunc --filter label=idlhub.user=$3)
echo $1 $2 $3 $containers >> {folder}/calls
if [ -e {folder}/fails ]; then echo "the file server does not answer"; exit 3; fi
[ "$1" = fence ] || exit 0
for container in $containers; do
  init=$(docker inspect -f '{{{{.State.Pid}}}}' "$container")
  {sudo} nsenter --target "$init" --mount mount -o remount,bind,ro /home/student || exit 4
done
"""


@dataclass(frozen=True)
class Room:
    """A hub with two servers."""

    hub: Hub
    door: EngineDoor
    fence: Path
    """Folder of the program that fences: ``calls`` is what it did; with ``fails`` it fails."""
    homes: Path

    # -- the servers ------------------------------------------------------------------------------

    def silence(self) -> None:
        """Let nobody reach the first server any more, its engine or its containers."""
        self.door.close()
        for lease in self.leases(SILENT):
            docker("pause", lease[1])

    def back(self) -> None:
        """Let the first server be reached again."""
        paused = docker("ps", "-q", "--filter", "status=paused", "--filter", f"label=idlhub.hub={self.hub.hub_id}")
        for container in paused.split():
            docker("unpause", container)
        self.door.open()

    def reroute(self, route: str, target: str) -> None:
        """Let the proxy look for somebody's server elsewhere; `route` is its address in the proxy's own API."""
        token, _ = self.hub.secrets
        more = {"user": route.rsplit("/", 1)[1], "server_name": ""}
        headers = {"Authorization": f"token {token}"}
        requests.post(route, json={"target": target} | more, headers=headers, timeout=10).raise_for_status()

    def calls(self) -> list[list[str]]:
        """Return what the program was called with, and which containers the student had."""
        file = self.fence / "calls"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    # -- the hub ----------------------------------------------------------------------------------

    def leases(self, server: str) -> list[tuple[str, str, str]]:
        """Return id, container and phase of the live leases on a server."""
        query = "select id, container_id, phase from lease where server = ? and phase != 'ended' order by reserved_at"
        return [(str(row[0]), str(row[1]), str(row[2])) for row in self.hub.rows(query, server)]

    def token(self, user: str) -> str:
        """Return a token of a person for the GPU pages."""
        answer = self.hub.api("POST", f"/users/{user}/tokens", {})
        assert answer.ok, answer.text
        return str(answer.json()["token"])

    def web(self, method: str, path: str, token: str, body: Any = None) -> Any:
        """Ask the GPU pages as that person; return the JSON."""
        headers = {"Authorization": f"token {token}"}
        url = f"{self.hub.url}/services/web/api/{path}"
        return requests.request(method, url, headers=headers, json=body, timeout=30).json()

    def stage(self, token: str) -> str:
        """Return how far that person's session with a silent server is; empty when there is none."""
        silence = self.web("GET", "me", token)["silence"]
        return str(silence["stage"]) if silence else ""

    def wait_for_stage(self, token: str, stage: str, seconds: float = 30) -> None:
        wait_for(lambda: self.stage(token) == stage, f"the stage {stage!r}\n{self.hub.log_tail()}", seconds)

    def empty(self) -> None:
        """Bring everything back, stop every server, and fail when something is left."""
        for name in ("fails", "calls"):
            (self.fence / name).unlink(missing_ok=True)
        self.back()
        wait_for(lambda: not self.closed(), "the server to be let back", 45)
        for user in self.hub.api("GET", "/users").json():
            if user["servers"] or user["pending"]:
                self.hub.api("DELETE", f"/users/{user['name']}/server")
        wait_for(lambda: not self.hub.leftovers(), f"nothing to be left\n{self.hub.log_tail()}", 45)

    def closed(self) -> list[Any]:
        """Return what keeps servers closed after they were silent."""
        shown = self.hub.rows("select target from out_of_service where kind = 'fenced' and ended_at is null")
        return [*self.hub.rows("select lease_id from fence where lifted_at is null"), *shown]


def start(folder: Path, *, fence: bool = True, config: str = "", students: int = 4) -> Iterator[Room]:
    """Start a hub; to be used by a fixture with ``yield from``."""
    homes, fences = folder / "homes", folder / "fence"
    homes.mkdir(mode=0o711)
    (homes / MARKER).touch()
    fences.mkdir()
    program = fences / "program"
    program.write_text(_FENCE.format(folder=fences, sudo=" ".join(SUDO)), encoding="utf-8")
    program.chmod(0o755)
    with ExitStack() as held:
        short = Path(held.enter_context(tempfile.TemporaryDirectory()))
        doors = [held.enter_context(EngineDoor(short / f"{name}.sock")) for name in (SILENT, OTHER)]
        servers = [
            {"name": name, "address": "127.0.0.1", "engine": {"url": door.url}}
            for name, door in zip((SILENT, OTHER), doors, strict=True)
        ]
        settings: dict[str, Any] = {
            "servers": servers,
            "gpus": {"simulated": 0, "simulator_library": None, "simulator_state": None},
            "homes": {"directory": str(homes), "fence_seconds": FENCED_WITHIN_SECONDS}
            | ({"uid": os.geteuid(), "gid": os.getegid()} if os.geteuid() else {})
            | ({"fence_command": [str(program)]} if fence else {}),
            "spawner": {
                "image": light_image(),
                "call_timeout_seconds": 3,
                "stop_timeout_seconds": 1,
                "restart_grace_seconds": 1,
                "server_lost_minutes": GRACE_SECONDS / 60,
            },
        }
        hub = held.enter_context(Hub(folder / "hub", gpus=1, students=students, settings=settings, config=config))
        yield Room(hub, doors[0], fences, homes)
