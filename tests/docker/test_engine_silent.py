"""A Docker engine that says nothing, or is away: nobody loses a session, and no GPU is given out twice."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import requests
from hubs import docker, wait_for
from students import Student

if TYPE_CHECKING:
    from conftest import Classroom

    from idl_hub.gpus.leases import Lease

# Longer than one call to the engine may take (3 s in these tests), so that the hub has met the silence.
_SILENCE_SECONDS = 5


def served(classroom: Classroom) -> bool:
    """Whether JupyterHub says that student1's server is ready."""
    model = classroom.hub.api("GET", "/users/student1").json()
    return bool(model["servers"].get("", {}).get("ready"))


def test_a_silent_engine_ends_no_session(classroom: Classroom) -> None:
    student = Student(classroom.hub, "student1").started()
    before = classroom.lease_of("student1")
    classroom.door.hang()
    assert classroom.door.held.wait(40), "the hub never asked its engine"  # it looks every 15 s
    silent_until = time.monotonic() + _SILENCE_SECONDS
    wait_for(lambda: time.monotonic() > silent_until, "the silence", _SILENCE_SECONDS + 1)
    assert served(classroom)
    assert student.ask_server().ok
    classroom.door.open()
    assert classroom.lease_of("student1") == before


def test_a_stop_that_cannot_reach_the_engine_keeps_the_gpu_until_it_can(classroom: Classroom) -> None:
    Student(classroom.hub, "student1").started()
    lease = classroom.lease_of("student1")
    classroom.door.close()
    assert classroom.hub.api("DELETE", "/users/student1/server", timeout=60).status_code in (202, 204)
    wait_for(lambda: classroom.lease_of("student1").phase == "lost", "the lease to be called lost")
    assert docker("inspect", "-f", "{{.State.Running}}", lease.container_id) == "true"
    page = Student(classroom.hub, "student2").start_page()
    assert "0 of 3 free" in page  # one is held; the others cannot be given out
    assert "its engine does not answer" in page
    classroom.door.open()
    wait_for(lambda: not classroom.hub.leftovers(), "the stop to be made up for")
    assert Student(classroom.hub, "student1").started().ask_server().ok


def test_a_start_without_an_engine_says_so_and_leaks_nothing(classroom: Classroom) -> None:
    student = Student(classroom.hub, "student1")
    classroom.door.close()
    last = student.start()
    assert "No server for students answers right now" in last["message"]
    assert "Try again" in last["message"]
    classroom.door.open()
    wait_for(lambda: not classroom.hub.leftovers(), "the start to be cleaned up")
    assert student.started().ask_server().ok


def test_a_hub_that_starts_beside_a_silent_engine_keeps_running_sessions(classroom: Classroom) -> None:
    Student(classroom.hub, "student1").started()
    before: list[Lease] = classroom.hub.leases(live=True)
    classroom.hub.kill()
    classroom.door.hang()
    classroom.hub.start_again()
    wait_for(lambda: served(classroom), "the hub to take the server as running")
    assert requests.get(f"{classroom.hub.url}/user/student1/api", timeout=10).ok
    classroom.door.open()
    wait_for(lambda: "2 of 3 free" in Student(classroom.hub, "student2").start_page(), "the start page")
    assert Student(classroom.hub, "student2").started().ask_server().ok
    assert [lease for lease in classroom.hub.leases(live=True) if lease.user == "student1"] == before


def test_whether_a_server_runs_is_known_without_asking_the_engine(classroom: Classroom) -> None:
    student = Student(classroom.hub, "student1").started()
    container = classroom.lease_of("student1").container_id

    def home_page_asks_nobody() -> bool:
        """Whether the home page, for which the hub polls, comes without a question for the container."""
        classroom.door.hold(f"/containers/{container}/")
        threading.Timer(1, classroom.door.open).start()
        home = student.request("GET", "/hub/home")
        asked = classroom.door.held.is_set()
        classroom.door.open()
        assert "Stop my server" in home.text
        return not asked

    # Right after the start, or when the engine's events were lost, the next look makes the picture whole.
    wait_for(home_page_asks_nobody, "a picture of what runs")
    assert all(home_page_asks_nobody() for _ in range(5))


def test_a_server_that_dies_is_given_up_when_its_engine_says_so(classroom: Classroom) -> None:
    Student(classroom.hub, "student1").started()
    lease = classroom.lease_of("student1")
    began = time.monotonic()
    docker("kill", lease.container_id)
    wait_for(lambda: not classroom.hub.leftovers(), "the dead container to be given up")
    # A look comes by itself every 15 s; the engine's word comes at once, and what is left is the clean-up.
    assert time.monotonic() - began < 10
    assert [record.ending for record in classroom.hub.leases()][-1:] == ["its container was killed (exit code 137)"]
