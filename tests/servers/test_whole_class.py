"""A whole class on ten servers: agents are real processes, GPUs simulated, students' servers featherweights."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from agents import RunningAgent
from hubs import Hub, wait_for
from students import Student

from idl_hub.gpus.simulator import Fault, Simulator, build

SERVERS, GPUS_OF_A_SERVER, STUDENTS = 10, 8, 120
GPUS = SERVERS * GPUS_OF_A_SERVER
ARRIVALS_PER_SECOND = 4
LIGHT_SERVER = Path(__file__).parents[1] / "light_image" / "server.py"


@dataclass
class Room:
    """The hub, and each server's agent and GPUs."""

    hub: Hub
    agents: dict[str, RunningAgent]
    simulators: dict[str, Simulator]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    library = build(tmp_path / "library")
    names = [f"gpu{number:02d}" for number in range(1, SERVERS + 1)]
    with ExitStack() as stack:
        agents, simulators, servers = {}, {}, []
        for name in names:
            folder = tmp_path / name
            folder.mkdir()
            simulators[name] = Simulator(folder / "gpus.state")
            simulators[name].create(GPUS_OF_A_SERVER)
            agents[name] = stack.enter_context(RunningAgent(simulators[name], library, folder, server=name))
            agent = {"url": agents[name].url, "token_file": str(agents[name].token_file)}
            servers.append({"name": name, "agent": agent | {"ca_file": str(agents[name].certificate)}})
        hub = Hub(
            tmp_path / "hub",
            kind="process",
            students=STUDENTS,
            settings={"gpus": {"simulated": 0}, "servers": servers},
            config=f"c.GPUProcessSpawner.cmd = [{sys.executable!r}, '-S', {str(LIGHT_SERVER)!r}]",
        )
        stack.enter_context(hub)
        yield Room(hub, agents, simulators)


@dataclass
class Arrival:
    """What became of a student who pressed start."""

    student: Student
    ready: bool
    seconds: float


def arrive(hub: Hub, number: int, begin: float) -> Arrival:
    student = Student(hub, f"student{number}")
    due = begin + number / ARRIVALS_PER_SECOND
    wait_for(lambda: time.monotonic() >= due, "the student's turn to press start", 120, 0.02)
    pressed = time.monotonic()
    page = student.submit_start()
    if page.status_code != 302:
        assert "in line" in page.text, page.text[:2000]
        return Arrival(student, ready=False, seconds=time.monotonic() - pressed)
    last = student.events()[-1]
    assert last.get("ready") or "in line" in last["message"], last
    return Arrival(student, bool(last.get("ready")), time.monotonic() - pressed)


def running(hub: Hub) -> dict[str, tuple[str, ...]]:
    return {lease.user: lease.gpu_uuids for lease in hub.leases(live=True) if lease.phase == "running"}


def waiting(hub: Hub) -> list[str]:
    return [user for (user,) in hub.rows("select user from ticket where state = 'waiting' order by place")]


def assert_no_gpu_twice(hub: Hub) -> None:
    held = [uuid for uuids in running(hub).values() for uuid in uuids]
    assert len(held) == len(set(held))


def test_eighty_work_forty_wait_and_faults_touch_nobody_else(room: Room) -> None:
    hub = room.hub
    begin = time.monotonic() + 8  # the logins come first
    with ThreadPoolExecutor(40) as people:
        arrivals = list(people.map(lambda number: arrive(hub, number, begin), range(1, STUDENTS + 1)))
    took = time.monotonic() - begin

    served = {arrival.student.name for arrival in arrivals if arrival.ready}
    told = sorted(arrival.seconds for arrival in arrivals if not arrival.ready)
    print(f"\n{len(served)} serve themselves and {len(told)} are in line after {took:.0f} s; "
          f"the line was told after {told[len(told) // 2]:.2f} s (median), {told[-1]:.2f} s at most")  # fmt: skip
    assert (len(served), len(told)) == (GPUS, STUDENTS - GPUS)
    assert took < 60
    assert told[-1] < 2
    assert set(running(hub)) == served
    assert_no_gpu_twice(hub)
    line = waiting(hub)
    assert len(line) == STUDENTS - GPUS
    statuses = [status for arrival in arrivals for status in arrival.student.statuses]
    assert max(statuses) < 500, sorted(set(statuses))

    # One agent hangs, one dies, one free GPU falls off its bus.
    room.agents["gpu01"].process.send_signal(signal.SIGSTOP)
    room.agents["gpu02"].stop(signal.SIGKILL)
    leaver = next(arrival.student for arrival in arrivals if server_of(hub, arrival.student.name) == "gpu03")
    [uuid] = running(hub)[leaver.name]
    index = next(gpu.index for gpu in room.simulators["gpu03"].gpus() if gpu.uuid == uuid)
    room.simulators["gpu03"].set(index, fault=Fault.lost())
    old_enough = time.monotonic() + hub.settings["gpus"].get("reading_max_age_seconds", 10) + 3
    wait_for(lambda: time.monotonic() >= old_enough, "the readings to grow old", 30)
    before = running(hub)
    leaver.stop()
    for name in ("gpu01", "gpu02"):
        other = next(arrival.student for arrival in arrivals if server_of(hub, arrival.student.name) == name)
        other.stop()
    wait_for(lambda: len(running(hub)) == GPUS - 3, "three servers to stop", 30)
    assert waiting(hub) == line, "a lost GPU and unread ones are given to nobody"
    assert set(running(hub).items()) < set(before.items()), "nobody else was touched"

    # The hub restarts; who waits keeps the place, who works goes on.
    hub.kill()
    survivors = [arrival.student for arrival in arrivals if arrival.student.name in running(hub)]
    assert all(student.ask_server().ok for student in survivors[:10]), "servers answer while the hub is dead"
    hub.start_again()
    wait_for(lambda: hub.api("GET", "/users").ok, "the hub", 60)
    assert waiting(hub) == line
    assert len(running(hub)) == GPUS - 3

    # The hanging agent comes back: its free GPU goes to the first in line.
    room.agents["gpu01"].process.send_signal(signal.SIGCONT)
    wait_for(lambda: line[0] in running(hub), "the first in line to be served", 60)
    assert waiting(hub) == line[1:]
    assert_no_gpu_twice(hub)


def server_of(hub: Hub, user: str) -> str:
    rows = hub.rows("select server from lease where user = ? and phase = 'running'", user)
    return rows[0][0] if rows else ""
