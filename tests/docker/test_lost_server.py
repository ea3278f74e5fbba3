"""A server that nobody reaches: a blip changes nothing, and after the grace time a student starts elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import silent_servers
from hubs import docker, wait_for
from silent_servers import GRACE_SECONDS, OTHER, SILENT, Room
from students import Student

from idl_hub.db import Database
from idl_hub.db.commands import DONE, Answer, Commands

_CONFIG = """\
import os, signal
from pathlib import Path
from idl_hub.spawners.lost import Lost

note, let_go = Path({note!r}), Lost._let_go


async def die_or_let_go(self, fence, live):
    if note.exists():
        note.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    await let_go(self, fence, live)


Lost._let_go = die_or_let_go
c.JupyterHub.init_spawners_timeout = 1  # for so long a hub that starts waits for silent servers
c.Spawner.http_timeout = 3  # for so long it waits for what it was told to run, before it stops it
"""


@pytest.fixture(scope="module")
def one_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("lost")
    yield from silent_servers.start(folder, config=_CONFIG.format(note=str(folder / "die")), students=16)


@pytest.fixture
def room(one_room: Room) -> Iterator[Room]:
    yield one_room
    one_room.empty()


def start(room: Room, name: str) -> Student:
    return Student(room.hub, name).started(gpu="none")


def on_silent_server(room: Room, name: str) -> tuple[Student, str, str]:
    """Start a new student, who comes to the server that will be silent; return token and container as well."""
    student = start(room, name)
    [(_, container, _)] = room.leases(SILENT)
    return student, room.token(name), container


def runs(container: str) -> bool:
    return docker("ps", "-aq", "--no-trunc", "--filter", f"id={container}") == container


def test_a_blip_changes_nothing_and_after_the_grace_time_a_student_starts_elsewhere(room: Room) -> None:
    student, token, container = on_silent_server(room, "student1")
    room.silence()
    room.wait_for_stage(token, "wait")
    assert "Mostly this is over in a minute" in student.request("GET", "/hub/home").text
    refused = room.web("POST", "me/elsewhere", token)
    assert refused["state"] == "refused", refused
    assert "may be back any moment" in refused["result"]
    room.back()
    room.wait_for_stage(token, "")
    assert room.leases(SILENT)[0][1:] == (container, "running")
    assert student.ask_server().ok

    room.silence()
    room.wait_for_stage(token, "lost")
    assert "start elsewhere" in student.request("GET", "/hub/home").text
    assert room.web("POST", "me/elsewhere", token)["state"] == "done"
    room.wait_for_stage(token, "free")
    assert [call[:3] for call in room.calls()] == [["fence", SILENT, "student1"]]
    began = time.monotonic()
    start(room, "student1")
    assert time.monotonic() - began < 10, "who starts elsewhere does not wait for the silent server"
    assert [phase for _, _, phase in room.leases(OTHER)] == ["running"]
    assert room.leases(SILENT)[0][1:] == (container, "lost")
    room.wait_for_stage(token, "")
    assert student.ask_server().ok

    room.back()
    wait_for(lambda: not room.closed(), "the server to be let back")
    assert [call[:2] for call in room.calls()] == [["fence", SILENT], ["unfence", SILENT]]
    assert container in room.calls()[0][3:]
    assert container not in room.calls()[1][3:], "what was given up is removed before its server may write again"
    assert room.leases(SILENT) == []
    assert student.ask_server().ok
    start(room, "student2")
    assert [phase for _, _, phase in room.leases(SILENT)] == ["running"], "the server gets sessions again"


def test_what_still_runs_where_nobody_reaches_it_cannot_write_once_it_is_cut_off(room: Room) -> None:
    _, token, old = on_silent_server(room, "student13")
    home = room.homes / "student13"
    # A training that goes on and saves, whatever becomes of its server's connection.
    write = "while :; do date +%s.%N > /home/student/checkpoint || touch /tmp/refused; sleep 0.1; done"
    docker("exec", "--detach", old, "sh", "-c", write)
    wait_for((home / "checkpoint").exists, "the first checkpoint")
    room.door.close()
    room.wait_for_stage(token, "lost")
    before = (home / "checkpoint").read_text()
    wait_for(lambda: (home / "checkpoint").read_text() != before, "the next checkpoint, from behind the silence")
    room.web("POST", "me/elsewhere", token)
    room.wait_for_stage(token, "free")
    start(room, "student13")
    [(_, new, _)] = room.leases(OTHER)
    docker("exec", new, "sh", "-c", "echo mine > /home/student/checkpoint")
    docker("exec", old, "sh", "-c", "rm -f /tmp/refused")
    wait_for(lambda: _has(old, "/tmp/refused"), "another try of what still runs")
    assert (home / "checkpoint").read_text() == "mine\n"
    room.back()
    wait_for(lambda: not room.closed(), "the server to be let back")
    assert not runs(old)
    assert (home / "checkpoint").read_text() == "mine\n"


def _has(container: str, path: str) -> bool:
    return bool(docker("exec", container, "sh", "-c", f"ls {path} 2> /dev/null || true"))


def test_without_a_fence_a_student_starts_elsewhere_only_at_their_own_risk(room: Room) -> None:
    (room.fence / "fails").touch()
    student, token, container = on_silent_server(room, "student3")
    room.silence()
    room.wait_for_stage(token, "lost")
    room.web("POST", "me/elsewhere", token)
    room.wait_for_stage(token, "uncut")
    assert room.leases(SILENT)[0][2] == "running", "nothing is given up before it is safe or accepted"
    wait_for(lambda: "the file server does not answer" in events(room, SILENT), "an admin to learn why")

    began = time.monotonic()  # to stop it and to start again is no way around the question
    assert student.stop().status_code in (202, 204)
    wait_for(lambda: room.leases(SILENT)[0][2] == "lost", "the lease to be called lost")
    assert time.monotonic() - began < 5, "a stop does not wait for the silent server"
    last = student.start(gpu="none")
    assert "has not answered since" in last["message"], last
    assert "See what you can do" in last.get("html_message", last["message"])

    assert room.web("POST", "me/elsewhere", token, {"risk": True})["state"] == "done"
    room.wait_for_stage(token, "free")
    start(room, "student3")
    assert [phase for _, _, phase in room.leases(OTHER)] == ["running"]
    (room.fence / "fails").unlink()
    room.back()
    wait_for(lambda: not room.closed(), "the server to be let back")
    assert not runs(container)
    assert student.ask_server().ok


def test_a_hub_killed_at_each_step_of_a_start_elsewhere_leaves_a_way_on(room: Room, one_room: Room) -> None:
    die = one_room.hub.folder.parent / "die"
    _, token, container = on_silent_server(room, "student5")
    room.silence()
    room.wait_for_stage(token, "lost")
    die.touch()  # killed after the fence, before JupyterHub lets go
    room.web("POST", "me/elsewhere", token)
    room.hub.wait_dead(20)
    room.hub.start_again()
    room.wait_for_stage(token, "free")

    room.hub.kill()  # killed after JupyterHub let go, before the new start
    room.hub.start_again()
    assert room.stage(token) == "free"
    start(room, "student5")
    assert [phase for _, _, phase in room.leases(OTHER)] == ["running"]
    room.back()
    wait_for(lambda: not room.closed(), "the server to be let back")
    assert not runs(container)
    assert [call[0] for call in room.calls()] == ["fence", "unfence"]


def test_a_hub_that_starts_beside_a_silent_server_keeps_its_sessions_and_offers_a_start_elsewhere(room: Room) -> None:
    student, token, container = on_silent_server(room, "student7")
    room.hub.kill()
    room.silence()
    room.hub.start_again()
    past_check = time.monotonic() + GRACE_SECONDS + 2
    room.wait_for_stage(token, "lost")
    wait_for(lambda: time.monotonic() > past_check, "JupyterHub's own patience", 20)
    assert "start elsewhere" in student.request("GET", "/hub/home").text
    assert room.leases(SILENT)[0][1:] == (container, "running")
    room.back()
    wait_for(lambda: room.hub.api("GET", "/users/student7").json()["servers"].get("", {}).get("ready"), "the server")
    assert room.leases(SILENT)[0][1:] == (container, "running")
    assert student.ask_server().ok


def test_an_admin_ends_sessions_on_a_silent_server(room: Room) -> None:
    _, token, container = on_silent_server(room, "student11")
    start(room, "student12")
    start(room, "student15")
    [(lease, _, _), (_, second, _)] = room.leases(SILENT)
    assert "answers" in declare_dead(room).result
    room.silence()
    room.wait_for_stage(token, "wait")
    said = room.web("POST", f"sessions/{lease}/end", room.token("admin"), {"message": "the course is over"})
    assert said["state"] == "done", said
    assert "removed at its return" in said["result"]
    room.wait_for_stage(token, "free")
    assert room.hub.api("GET", "/users/student11").json()["servers"] == {}

    assert declare_dead(room).state == DONE  # the admin has switched it off
    assert room.leases(SILENT) == []
    wait_for(lambda: room.hub.api("GET", "/users/student15").json()["servers"] == {}, "JupyterHub to let go")
    start(room, "student15")
    assert len(room.leases(OTHER)) == 2
    room.back()
    wait_for(lambda: not runs(container) and not runs(second), "what ran there after all to be removed")


def declare_dead(room: Room) -> Answer:
    database = Database(f"sqlite:///{room.hub.database}")
    try:
        return Commands(database).ask_and_wait("declare_dead", {"server": SILENT}, "tests", 20)
    finally:
        database.close()


def events(room: Room, server: str) -> str:
    return "\n".join(str(row[0]) for row in room.hub.rows("select text from event where server = ?", server))
