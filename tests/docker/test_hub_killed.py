"""A hub that is killed at any moment and started again: nothing is held twice, nothing leaks, nobody is stopped."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from dying import STARTING, STOPPING
from hubs import Hub, docker, wait_for
from light import light_image

SETTLE_SECONDS = 30
BYSTANDER = "student5"
NEWCOMER = "student1"
_CONFIG = """\
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
from dying import arm

arm(Path({note!r}))
"""


@dataclass
class MortalHub:
    """A hub that dies where `die_at` says."""

    hub: Hub
    note: Path

    def die_at(self, step: str, method: str) -> None:
        """Ask for a start (POST) or stop (DELETE), and return when the hub has died at `step`."""
        self.note.write_text(step, encoding="utf-8")
        with suppress(requests.RequestException):
            answer = self.hub.api(method, f"/users/{NEWCOMER}/server", timeout=20)
            # 202: it goes on; 503: the proxy found nobody any more.
            assert answer.status_code in (202, 503) or not self.note.exists(), f"it never came to: {step}"
        self.hub.wait_dead(20)
        assert not self.note.exists(), f"the hub ended, but not at: {step}\n{self.hub.log_tail()}"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalHub]:
    folder = tmp_path_factory.mktemp("killed")
    note = folder / "die_at"
    config = _CONFIG.format(tests=str(Path(__file__).parents[1]), note=str(note))
    with Hub(folder / "hub", gpus=2, settings={"spawner": {"image": light_image()}}, config=config) as hub:
        start(hub, BYSTANDER)
        yield MortalHub(hub, note)


@pytest.mark.parametrize("step", STARTING)
def test_killed_in_a_start_and_started_again_the_hub_leaks_nothing(mortal: MortalHub, step: str) -> None:
    with watching(mortal.hub, BYSTANDER) as watch:
        mortal.die_at(step, "POST")
        mortal.hub.start_again()
        settle(mortal.hub)
        start(mortal.hub, NEWCOMER)
        stop(mortal.hub, NEWCOMER)
    assert watch.failures == []


@pytest.mark.parametrize("step", STOPPING)
def test_killed_in_a_stop_and_started_again_the_hub_leaks_nothing(mortal: MortalHub, step: str) -> None:
    start(mortal.hub, NEWCOMER)
    with watching(mortal.hub, BYSTANDER) as watch:
        mortal.die_at(step, "DELETE")
        mortal.hub.start_again()
        settle(mortal.hub)
        start(mortal.hub, NEWCOMER)
        stop(mortal.hub, NEWCOMER)
    assert watch.failures == []


def test_a_server_too_busy_to_answer_for_20_s_at_the_hubs_start_is_not_stopped(mortal: MortalHub) -> None:
    hub = mortal.hub
    before = hub.leases(live=True)
    [container] = hub.containers(running=True)
    hub.kill()
    docker("pause", container)
    busy_until = time.monotonic() + 20
    hub.start_again()
    wait_for(lambda: time.monotonic() > busy_until, "20 s to pass", 25)
    docker("unpause", container)
    wait_for(lambda: ready(hub) == {BYSTANDER}, "the hub to know the server", SETTLE_SECONDS)
    assert hub.leases(live=True) == before
    assert hub.containers(running=True) == [container]
    assert reachable(hub, BYSTANDER)


def test_a_server_that_died_while_the_hub_was_dead_frees_its_gpu(mortal: MortalHub) -> None:
    hub = mortal.hub
    start(hub, NEWCOMER)
    [lease] = [lease for lease in hub.leases(live=True) if lease.user == NEWCOMER]
    assert lease.container_id
    hub.kill()
    docker("kill", lease.container_id)
    hub.start_again()
    settle(hub)
    assert ready(hub) == {BYSTANDER}
    start(hub, NEWCOMER)
    stop(hub, NEWCOMER)


# -- what must hold ------------------------------------------------------------------------------------


def settle(hub: Hub) -> None:
    """Wait until leases, containers and the hub's servers are the same; no GPU may have two holders meanwhile."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (differences := unsettled(hub)) and time.monotonic() < deadline:
        assert_no_gpu_has_two_holders(hub)
    assert not differences, f"{differences}\n{hub.log_tail()}"
    assert_no_gpu_has_two_holders(hub)


def unsettled(hub: Hub) -> str:
    """Return in words where ledger, engine and hub differ; empty when they agree."""
    leases = {(lease.user, lease.container_id, lease.phase) for lease in hub.leases(live=True)}
    containers = {(found.user, found.id, "running") for found in session_containers(hub)}
    servers = ready(hub)
    agree = leases == containers and servers == {user for user, _, _ in leases} and pending(hub) == set()
    return "" if agree else f"leases {leases}, containers {containers}, servers {servers}, pending {pending(hub)}"


def assert_no_gpu_has_two_holders(hub: Hub) -> None:
    leased = [uuid for lease in hub.leases(live=True) for uuid in lease.gpu_uuids]
    assert len(leased) == len(set(leased)), hub.leases(live=True)
    used = [uuid for found in session_containers(hub) if found.running for uuid in found.gpus]
    assert len(used) == len(set(used)), session_containers(hub)


@dataclass(frozen=True)
class SessionContainer:
    id: str
    user: str
    gpus: tuple[str, ...]
    running: bool


def session_containers(hub: Hub) -> list[SessionContainer]:
    """Return the hub's containers with what their labels say, running or not."""
    found = []
    for container in hub.containers():
        with suppress(AssertionError):  # gone between the two questions
            [shown] = json.loads(docker("inspect", container))
            labels = shown["Config"]["Labels"]
            uuids = tuple(filter(None, labels["idlhub.gpus"].split(",")))
            found.append(SessionContainer(container, labels["idlhub.user"], uuids, shown["State"]["Running"]))
    return found


def ready(hub: Hub) -> set[str]:
    """Return the users whose servers the hub calls ready."""
    return {user["name"] for user in users(hub) if user["servers"].get("", {}).get("ready")}


def pending(hub: Hub) -> set[str]:
    return {user["name"] for user in users(hub) if user["pending"]}


def users(hub: Hub) -> list[dict[str, dict[str, dict[str, object]]]]:
    return hub.api("GET", "/users").json()  # type: ignore[no-any-return]


def start(hub: Hub, user: str) -> None:
    """Start the user's server unless it runs, and wait until it answers."""
    answer = hub.api("POST", f"/users/{user}/server")
    assert answer.status_code in (201, 202, 400), (answer.status_code, answer.text)  # 400: it runs already
    wait_for(lambda: user in ready(hub) and reachable(hub, user), f"{user} to have a server\n{hub.log_tail()}")


def stop(hub: Hub, user: str) -> None:
    answer = hub.api("DELETE", f"/users/{user}/server")
    assert answer.status_code in (202, 204), (answer.status_code, answer.text)
    wait_for(lambda: user not in {lease.user for lease in hub.leases(live=True)}, f"{user}'s lease to end")
    wait_for(lambda: user not in pending(hub), f"the hub to be done with {user}")


def reachable(hub: Hub, user: str) -> bool:
    """Whether the user's server itself answers through the proxy."""
    answer = requests.get(f"{hub.url}/user/{user}/api", timeout=10, allow_redirects=False)
    return answer.ok and answer.json() == {"version": "light"}


@dataclass
class Watch:
    """What a visitor saw who asked a server again and again."""

    failures: list[str] = field(default_factory=list)
    asked: int = 0


@contextmanager
def watching(hub: Hub, user: str) -> Iterator[Watch]:
    """Ask the user's server through the proxy all the time, hub or no hub."""
    watch, over = Watch(), threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            watch.asked += 1
            try:
                if not reachable(hub, user):
                    watch.failures.append("another answer")
            except requests.RequestException as error:
                watch.failures.append(repr(error))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join(20)
    assert watch.asked > 20
