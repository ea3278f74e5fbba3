"""Students at work on a cluster while something breaks: what they see, for how long, and what is left."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import requests
from cluster import Cluster, ClusterHub, Server
from hubs import wait_for
from students import Student

from idl_hub.db import Database
from idl_hub.db.commands import Commands

ASK_SECONDS = 2.0
"""A student who gets no answer for so long sees it."""
_ASK_EVERY_SECONDS = 0.1


@dataclass
class Course:
    """A cluster and its hub; the name of the step at which the hub is to die goes into `die_at`."""

    cluster: Cluster
    hub: ClusterHub
    die_at: Path = Path("/nonexistent")
    students: dict[str, Student] = field(default_factory=dict)

    def student(self, name: str) -> Student:
        """Return a person, logged in."""
        if name not in self.students:
            self.students[name] = Student(self.hub, name)
        return self.students[name]

    def at_work(self, name: str, server: Server | None = None) -> Work:
        """Start somebody's server, on that server if one is named, and save a file there."""
        others = [other for other in self.cluster.servers if server not in (None, other)]
        for other in others:
            self.close(other)
        try:
            self.student(name).started()
        finally:
            for other in others:
                self.open(other)
        work = Work(self, self.student(name))
        work.save(f"saved by {name}")
        return work

    def close(self, server: Server) -> None:
        """Let no session begin on a server for now."""
        self._command("drain", server=server.name, reason="a test", force=True)

    def open(self, server: Server) -> None:
        """Let sessions begin there again, whatever stood against it."""
        self._command("undrain", server=server.name)

    def _command(self, kind: str, **arguments: object) -> None:
        database = Database(f"sqlite:///{self.hub.database}")
        try:
            answer = Commands(database).ask_and_wait(kind, arguments, "tests", 20)
        finally:
            database.close()
        assert answer.state == "done", answer

    def nothing_left(self) -> None:
        """Stop everybody and fail when something is left on any server."""
        for user in self.hub.api("GET", "/users").json():
            if user["servers"] or user["pending"]:
                self.hub.api("DELETE", f"/users/{user['name']}/server")
        wait_for(lambda: not self.hub.leftovers(), f"nothing to be left\n{self.hub.log_tail()}", 60)
        wait_for(lambda: not self._busy(), "the hub to be done with everybody", 30)

    def _busy(self) -> list[str]:
        users = self.hub.api("GET", "/users").json()
        return [user["name"] for user in users if user["servers"] or user["pending"]]


class Work:
    """A student's running session."""

    def __init__(self, course: Course, student: Student) -> None:
        self.course = course
        self.student = student
        rows = course.hub.rows(
            "select id, server, container_id from lease where user = ? and phase = 'running'", student.name
        )
        [(self.lease, server, self.container)] = rows
        self.server = course.cluster.server(server)

    @property
    def number(self) -> int:
        """What the program in the session counts in its memory; one more each time."""
        answer = self.student.ask_server("light/number")
        assert answer.ok, (answer.status_code, answer.text[:500])
        return int(answer.json())

    def save(self, text: str) -> None:
        """Write a file in the home, from inside the session."""
        command = 'printf "%s" "$1" > /home/student/work.txt'
        self.server.docker("exec", self.container, "sh", "-c", command, "save", text)

    @property
    def saved(self) -> str:
        """What stands in that file, wherever it is looked at."""
        return (self.course.cluster.homes / self.student.name / "work.txt").read_text()

    @property
    def held(self) -> bool:
        """Whether the session's lease is still the same, and live."""
        rows = self.course.hub.rows("select phase from lease where id = ?", self.lease)
        return rows == [("running",)]


class Watch:
    """Asks a student's server ten times a second, as an open JupyterLab does; tells how long it was silent."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.silent_seconds = 0.0
        """The longest time between two answers."""
        self.seen: set[int | str] = set()
        """What came instead: HTTP statuses, and names of errors."""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(30)

    def _ask(self) -> None:
        student = self._work.student
        url = f"{student.hub.url}/user/{student.name}/api"
        answered = time.monotonic()
        while not self._end.wait(_ASK_EVERY_SECONDS):
            try:
                answer = requests.get(url, timeout=ASK_SECONDS, allow_redirects=False)
                if not answer.ok:
                    self.seen.add(answer.status_code)
            except requests.RequestException as error:
                self.seen.add(type(error).__name__)
                answer = None
            now = time.monotonic()
            self.silent_seconds = max(self.silent_seconds, now - answered)
            if answer is not None and answer.ok:
                answered = now


def seconds(action: object) -> float:
    """Return how long something takes."""
    assert callable(action)
    began = time.monotonic()
    action()
    return time.monotonic() - began
