"""Homes on several servers: the same everywhere, and no server without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from browser.person import START_MILLISECONDS, Person
from cluster import Cluster
from hubs import Hub, wait_for
from playwright.sync_api import sync_playwright
from students import Student

from idl_hub.homes.store import MARKER

pytestmark = pytest.mark.timeout(600)  # the first run puts the student image on the servers' disks


@dataclass(frozen=True)
class Course:
    """Two servers and their hub."""

    cluster: Cluster
    hub: Hub

    def server_of(self, user: str) -> str:
        """Return the name of the server on which this student's session runs."""
        [(server,)] = self.hub.rows("select server from lease where user = ? and phase = 'running'", user)
        return str(server)

    def ask(self, command: str, server: str) -> None:
        """Do something to a server, as an admin does."""
        done = subprocess.run(
            [sys.executable, "-m", "idl_hub.cli", command, server],
            env={**os.environ, "IDLHUB_SETTINGS": str(self.hub.folder / "settings.yml")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr

    def closed(self) -> dict[str, str]:
        """Return the servers that get no new sessions, and why."""
        return dict(
            self.hub.rows("select target, reason from out_of_service where kind = 'server' and ended_at is null")
        )

    def nothing_left(self) -> None:
        """Return when every session has ended, and everything is in service."""
        for server in self.closed():
            self.ask("undrain", server)
        wait_for(lambda: not self.hub.leftovers(), "nothing to be left", 60)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    folder = tmp_path_factory.mktemp("homes")
    with (
        Cluster(folder / "cluster", count=2, gpus=1, image="student") as cluster,
        cluster.hub(folder / "hub", students=4, settings={"quiet": {"deadline": None}}) as hub,
    ):
        yield Course(cluster, hub)
        print(hub.log_tail())


@contextmanager
def person(hub: Hub, name: str) -> Iterator[Person]:
    """Open a browser for somebody."""
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--disable-quic", *as_root]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(20_000)
        yield Person(hub, page, name)
        browser.close()


def test_a_file_written_on_one_server_is_there_on_the_next(course: Course) -> None:
    with person(course.hub, "student1") as student:
        student.log_in()
        student.choose("With a GPU")
        student.wait_for_lab()
        first = course.server_of("student1")
        student.run_in_terminal("echo 'written on one server' > work.txt")
        student.stop_server()

        course.ask("drain", first)
        student.page.get_by_role("link", name="Start my server").click()
        student.choose("With a GPU")
        # JupyterLab opens as it was left, which lies in the home as well.
        student.page.locator(".jp-DirListing-item", has_text="work.txt").dblclick(timeout=START_MILLISECONDS)
        assert course.server_of("student1") != first
        student.page.get_by_text("written on one server").wait_for()
        student.stop_server()
    course.nothing_left()


def test_a_server_that_lacks_the_homes_is_passed_over_and_never_gives_an_empty_home(course: Course) -> None:
    student = Student(course.hub, "student2").started(gpu="one")
    first = course.server_of("student2")
    lacking = course.cluster.server(first)
    student.stop()
    wait_for(lambda: not course.hub.leftovers(), "the server to be gone", 60)
    lacking.unmount_homes()
    try:
        # A folder of that name on the server's own disk is no home either.
        lacking.exec("mkdir", "-p", f"{course.cluster.homes}/student2")
        student.started(gpu="one")
        assert course.server_of("student2") != first
        [(name, why)] = course.closed().items()
        assert name == first
        assert f"the homes are not mounted there: {course.cluster.homes / MARKER} is missing" in why
        student.stop()
    finally:
        lacking.exec("rmdir", f"{course.cluster.homes}/student2")
        lacking.mount_homes()
    course.nothing_left()
