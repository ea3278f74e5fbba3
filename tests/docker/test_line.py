"""The line and idle GPUs with a real hub, real containers and simulated GPUs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hubs import Hub, docker, wait_for
from light import light_image
from students import Student

from idl_hub.db import Database
from idl_hub.db.commands import Answer, Commands


def hub_with(folder: Path, **sessions: float) -> Hub:
    settings = {"spawner": {"image": light_image()}, "sessions": sessions}
    return Hub(folder / "hub", gpus=1, students=5, settings=settings)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_with(tmp_path) as one:
        yield one


def ask(hub: Hub, kind: str, **arguments: Any) -> Answer:
    """Ask the hub for something, as idl-hub web and the shell do."""
    database = Database(f"sqlite:///{hub.database}")
    try:
        return Commands(database).ask_and_wait(kind, arguments, "tests", 20)
    finally:
        database.close()


def line(hub: Hub) -> list[tuple[str, str]]:
    """Return who is in line and how, in order."""
    return hub.rows("select user, state from ticket where ended_at is null order by place")


def ending(hub: Hub, user: str) -> list[tuple[str, str]]:
    return hub.rows("select state, ending from ticket where user = ? and ended_at is not null", user)


def told(hub: Hub, user: str) -> str:
    """Return what was written down about a person, as one text."""
    return "\n".join(text for (text,) in hub.rows("select text from event where user = ? order by id", user))


def runs(hub: Hub, user: str) -> bool:
    return any(lease.user == user and lease.phase == "running" for lease in hub.leases(live=True))


def queue(hub: Hub, *users: str) -> None:
    for user in users:
        assert "in line" in Student(hub, user).start()["message"]


def test_a_freed_gpu_starts_the_next_server_though_nobody_looks(hub: Hub) -> None:
    first = Student(hub, "student1").started()
    queue(hub, "student2", "student3")
    freed_at = time.monotonic()
    first.stop()
    wait_for(lambda: runs(hub, "student2"), "student2's server", 20)
    assert time.monotonic() - freed_at < 10
    assert line(hub) == [("student2", "ready"), ("student3", "waiting")]

    second = Student(hub, "student2")
    assert second.ask_server().ok
    wait_for(lambda: ending(hub, "student2"), "the ticket to be used up", 20)
    assert ending(hub, "student2") == [("opened", "opened")]
    second.stop()
    wait_for(lambda: runs(hub, "student3"), "student3's server", 20)


def test_a_restart_of_the_hub_costs_nobody_their_place(hub: Hub) -> None:
    first = Student(hub, "student1").started()
    queue(hub, "student2", "student3")
    hub.kill()
    hub.start_again()
    assert line(hub) == [("student2", "waiting"), ("student3", "waiting")]
    first.stop()
    wait_for(lambda: runs(hub, "student2"), "student2's server", 30)


def test_who_leaves_the_line_or_starts_without_a_gpu_makes_room(hub: Hub) -> None:
    first = Student(hub, "student1").started()
    queue(hub, "student2", "student3", "student4")
    [(ticket,)] = hub.rows("select id from ticket where user = 'student2'")
    assert ask(hub, "leave_line", ticket_id=ticket) == Answer("done", "You have left the line.")
    assert ask(hub, "leave_line", ticket_id=ticket).state == "refused"
    Student(hub, "student3").started(gpu="none")
    assert line(hub) == [("student4", "waiting")]
    first.stop()
    wait_for(lambda: runs(hub, "student4"), "student4's server", 20)


def test_somebody_moved_to_the_front_is_next_and_knows_by_whom(hub: Hub) -> None:
    Student(hub, "student1").started()
    queue(hub, "student2", "student3")
    [(ticket,)] = hub.rows("select id from ticket where user = 'student3'")
    assert ask(hub, "to_front", ticket_id=ticket).state == "done"
    assert line(hub) == [("student3", "waiting"), ("student2", "waiting")]
    assert "moved to the front of the line by tests" in told(hub, "student3")


def test_a_stop_in_the_middle_of_an_offered_start_leaves_the_line(tmp_path: Path) -> None:
    settings = {"spawner": {"image": light_image(), "environment": {"LIGHT_DELAY_SECONDS": "4"}}}
    with Hub(tmp_path / "hub", gpus=1, students=3, settings=settings) as hub:
        first = Student(hub, "student1").started()
        queue(hub, "student2")
        first.stop()
        wait_for(lambda: line(hub) == [("student2", "offered")], "the offer", 20)
        wait_for(lambda: hub.containers(running=True), "the container", 20)
        Student(hub, "student2").stop()
        wait_for(lambda: not hub.leases(live=True), "the GPU to be free", 30)
        assert line(hub) == []


def test_a_server_that_nobody_opens_goes_to_the_next(tmp_path: Path) -> None:
    with hub_with(tmp_path, open_within_minutes=0.1) as hub:
        first = Student(hub, "student1").started()
        queue(hub, "student2", "student3")
        first.stop()
        wait_for(lambda: runs(hub, "student2"), "student2's server", 20)
        wait_for(lambda: runs(hub, "student3"), "student3's server", 40)
        assert ending(hub, "student2") == [("expired", "not opened in time")]
        assert "not opened within 0.1 minutes" in told(hub, "student2")


def test_a_drained_server_gets_nobody_until_it_is_back(hub: Hub) -> None:
    drained = ask(hub, "drain", server="this machine", reason="new fans")
    assert drained == Answer("done", "this machine gets no new sessions; 0 still run there.")
    assert "in line" in Student(hub, "student1").start()["message"]
    hub.kill()
    hub.start_again()
    assert line(hub) == [("student1", "waiting")]
    assert ask(hub, "undrain", server="this machine").state == "done"
    wait_for(lambda: runs(hub, "student1"), "student1's server", 20)


def test_a_container_that_no_lease_explains_is_shown_and_an_admin_can_end_it(hub: Hub) -> None:
    [gpu] = hub.simulator.gpus()
    labels = {"idlhub.lease": "of-another", "idlhub.hub": "another-hub", "idlhub.gpus": gpu.uuid}
    arguments = [argument for label, value in labels.items() for argument in ("--label", f"{label}={value}")]
    container = docker("run", "--detach", *arguments, light_image(), "sleep", "600")
    try:
        shown = "select reason from out_of_service where kind = 'orphan' and ended_at is null"
        wait_for(lambda: hub.rows(shown), "the orphan to be shown", 30)
        [(reason,)] = hub.rows(shown)
        assert reason == f"used by a session of another hub, container {container[:12]}"
        assert "in line" in Student(hub, "student1").start()["message"]
        assert ask(hub, "end_orphan", gpu_uuid=gpu.uuid).state == "done"
        wait_for(lambda: runs(hub, "student1"), "the server that waited for this GPU", 20)
        wait_for(lambda: not hub.rows(shown), "the mark to end", 20)
        assert ask(hub, "end_orphan", gpu_uuid=gpu.uuid).state == "refused"
    finally:
        docker("rm", "--force", container)


def test_an_idle_gpu_goes_to_who_waits_after_a_warning_and_can_be_kept_once(tmp_path: Path) -> None:
    with hub_with(tmp_path, idle_minutes_while_others_wait=0.05, idle_warning_minutes=0.1) as hub:
        Student(hub, "student1").started()
        [lease] = hub.leases(live=True)
        queue(hub, "student2")
        wait_for(lambda: "warned" in told(hub, "student1"), "the warning", 20)
        assert ask(hub, "keep", lease_id=lease.id).state == "done"
        assert ask(hub, "keep", lease_id=lease.id).state == "refused"
        wait_for(lambda: told(hub, "student1").count("warned") == 2, "the second warning", 20)
        assert "once already" in ask(hub, "keep", lease_id=lease.id).result
        wait_for(lambda: runs(hub, "student2"), "student2's server", 30)
        why = "stopped: the GPU was idle while others waited"
        wait_for(lambda: why in told(hub, "student1"), "the reason, which is written down after the stop", 10)


def test_training_is_never_stopped_for_being_idle(tmp_path: Path) -> None:
    with hub_with(tmp_path, idle_minutes_while_others_wait=0.05, idle_warning_minutes=0.05) as hub:
        Student(hub, "student1").started()
        hub.simulator.set(0, utilization_ratio=0.4)
        queue(hub, "student2")
        busy_until = time.monotonic() + 12
        wait_for(lambda: time.monotonic() > busy_until, "12 s to pass", 20)
        assert runs(hub, "student1")
        assert "warned" not in told(hub, "student1")
        [(measured, busy)] = hub.rows("select measured_seconds, busy_seconds from lease_gpu") or [(0, 0)]
        assert busy <= measured


def test_the_longest_session_ends_training_too_unless_it_is_extended(tmp_path: Path) -> None:
    with hub_with(tmp_path, longest_hours=0.004, extension_hours=0.008) as hub:
        Student(hub, "student1").started()
        hub.simulator.set(0, utilization_ratio=0.9)
        [lease] = hub.leases(live=True)
        assert ask(hub, "extend", lease_id=lease.id).state == "done"
        past_the_first_end = time.monotonic() + 17
        wait_for(lambda: time.monotonic() > past_the_first_end, "the first end to pass", 25)
        assert runs(hub, "student1")
        wait_for(lambda: not hub.leases(live=True), "the end", 40)
        over = "the longest time for a session was over"
        wait_for(lambda: over in told(hub, "student1"), "the reason, which is written down after the stop", 10)


def test_a_gpu_with_a_hardware_error_stays_out_until_an_admin_includes_it(hub: Hub) -> None:
    [gpu] = hub.simulator.gpus()
    hub.simulator.report_xid(0, 79)
    marked = "select target, by from out_of_service where kind = 'gpu' and ended_at is null"
    wait_for(lambda: hub.rows(marked) == [(gpu.uuid, "hub")], "the GPU to be taken out of service", 30)
    assert "in line" in Student(hub, "student1").start()["message"]
    hub.kill()
    hub.start_again()
    assert line(hub) == [("student1", "waiting")]
    assert hub.rows(marked) == [(gpu.uuid, "hub")]
    assert ask(hub, "include", gpu_uuid=gpu.uuid).state == "done"
    wait_for(lambda: runs(hub, "student1"), "student1's server", 30)
    assert hub.rows(marked) == []


def test_a_session_ended_by_a_person_is_told_why_before_it_ends(hub: Hub) -> None:
    Student(hub, "student1").started(gpu="none")
    [lease] = hub.leases(live=True)
    answer = ask(hub, "end_session", lease_id=lease.id, message="new fans")
    assert answer == Answer("done", "The session of student1 ends in 45 s; its documents are saved before.")
    assert runs(hub, "student1"), "there is time to save"
    assert "tests ends your session: new fans" in told(hub, "student1")
    assert ask(hub, "extend", lease_id=lease.id).state == "refused"
    wait_for(lambda: not hub.leases(live=True), "the end", 60)
    why = "stopped: tests ends your session: new fans"
    wait_for(lambda: why in told(hub, "student1"), "the reason, which is written down after the stop", 10)
