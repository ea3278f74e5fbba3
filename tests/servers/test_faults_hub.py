"""What students on three servers see when the hub breaks, its disk is full, or the homes are gone."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from cluster import Cluster
from faults import Course, Watch, seconds
from hubs import ROOT, wait_for

GRACE_SECONDS = 4
START_SECONDS = 25
"""A hub that starts waits for none of its servers longer than its grace time."""
_CONFIG = """\
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
from dying import arm

arm(Path({note!r}))
"""


@dataclass(frozen=True)
class SmallDisk:
    """A file system that is quickly full."""

    folder: Path

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self) -> None:
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 65_536)
        with suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(b"x")

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    folder = tmp_path_factory.mktemp("small-disk")
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    owner = f"size=48m,uid={os.geteuid()},gid={os.getegid()}"
    subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", owner, "tmpfs", str(folder)], check=True, timeout=30)
    yield SmallDisk(folder)
    subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True, timeout=30)


@pytest.fixture(scope="module")
def one_course(tmp_path_factory: pytest.TempPathFactory, disk: SmallDisk) -> Iterator[Course]:
    folder = tmp_path_factory.mktemp("faults")
    config = _CONFIG.format(tests=str(ROOT / "tests"), note=str(folder / "die_at"))
    spawner = {"restart_grace_seconds": GRACE_SECONDS, "call_timeout_seconds": 10}
    with (
        Cluster(folder / "cluster", count=3, gpus=2) as cluster,
        cluster.hub(disk.folder / "hub", students=8, settings={"spawner": spawner}, config=config) as hub,
    ):
        yield Course(cluster, hub, die_at=folder / "die_at")
        print(hub.log_tail())


@pytest.fixture
def course(one_course: Course) -> Iterator[Course]:
    """Three servers; after each test nothing may be left on any."""
    yield one_course
    one_course.nothing_left()


@pytest.mark.parametrize("step", ["after the container is created", "after the container is started"])
def test_a_hub_killed_in_a_start_on_another_server_leaves_nothing_and_disturbs_nobody(
    course: Course, step: str
) -> None:
    work = course.at_work("student1")
    before = work.number
    course.die_at.write_text(step, encoding="utf-8")
    with Watch(work) as watch:
        with suppress(requests.RequestException):
            course.hub.api("POST", "/users/student2/server", timeout=20)
        course.hub.wait_dead(20)
        away = seconds(course.hub.start_again)
        healed = seconds(lambda: wait_for(lambda: leases(course) == ["student1"], "the cut-off start to be gone", 30))
    print(f"the hub answered after {away:.1f} s, the cut-off start was gone {healed:.1f} s later")
    assert not watch.seen
    assert work.held
    assert work.number == before + 1
    assert len(course.hub.containers()) == 1
    course.at_work("student2")


def leases(course: Course) -> list[str]:
    return [lease.user for lease in course.hub.leases(live=True)]


def test_a_hub_started_while_a_server_is_unreachable_serves_the_others_and_stops_nobody(course: Course) -> None:
    third = course.cluster.servers[2]
    work = course.at_work("student1", third)
    before = work.number
    course.hub.kill()
    third.cut_network()
    try:
        up = seconds(course.hub.start_again)
        start = seconds(lambda: course.student("student2").started())
        assert up < START_SECONDS
        assert start < START_SECONDS
        assert work.held
    finally:
        third.restore_network()
    healed = seconds(lambda: wait_for(lambda: known(course, "student1"), "the hub to hear the server", 40))
    print(f"the hub answered after {up:.1f} s, a start took {start:.1f} s; healed {healed:.1f} s after the network")
    assert work.held
    assert work.number == before + 1
    work.student.stop()
    wait_for(lambda: leases(course) == ["student2"], "the stop", 15)


def known(course: Course, name: str) -> bool:
    """Whether the hub counts somebody's server as ready and its page tells of no silence."""
    servers = course.hub.api("GET", f"/users/{name}").json()["servers"]
    page = course.student(name).request("GET", "/hub/home").text
    return bool(servers and servers[""]["ready"]) and "does not answer" not in page


def test_with_the_hubs_disk_full_work_goes_on_starts_are_refused_and_room_heals_it(
    course: Course, disk: SmallDisk
) -> None:
    work = course.at_work("student1")
    visitor = course.student("student2")
    before = work.number
    disk.fill()
    try:
        with Watch(work) as watch:
            took = time.monotonic()
            last = visitor.start()
            took = time.monotonic() - took
        print(f"after {took:.1f} s the student read: {words(last['message'])[:600]}")
        assert last.get("failed"), last
        assert "disk is full Your files are safe, and servers that run go on." in words(last["message"])
        assert took < START_SECONDS
        assert not watch.seen
        assert work.number == before + 1
        assert visitor.request("GET", "/hub/home").status_code < 600, "the hub lives"
    finally:
        disk.empty()
    healed = seconds(lambda: wait_for(lambda: leases(course) == ["student1"], "the failed start to be gone", 40))
    again = seconds(lambda: course.at_work("student2"))
    print(f"healed {healed:.1f} s after there was room; the next start took {again:.1f} s")
    assert work.held
    assert work.number == before + 2


def words(page: str) -> str:
    """Return what a page says, without its markup."""
    return " ".join(re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", " ", page).split())


def test_without_the_home_server_nobody_gets_an_empty_home_and_open_sessions_go_on(course: Course) -> None:
    homes = course.cluster.homes
    work = course.at_work("student1")
    before = work.number
    gone = homes.with_name("gone")
    homes.rename(gone)
    homes.mkdir()
    for server in course.cluster.servers:
        server.unmount_homes()
    try:
        with Watch(work) as watch:
            last = course.student("student2").start()
        print(f"the student read: {last['message'][:300]}")
        assert last.get("failed"), last
        assert not watch.seen
        assert list(homes.iterdir()) == [], "no home was made in its place"
    finally:
        homes.rmdir()
        gone.rename(homes)
        for server in course.cluster.servers:
            server.mount_homes()
    assert work.number == before + 1
    assert work.saved == "saved by student1"
    again = course.at_work("student2")
    assert again.saved == "saved by student2"
