"""Eighty students on ten servers with eight simulated GPUs each: real engines, and the light image."""

from __future__ import annotations

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from cluster import Cluster
from hubs import wait_for
from students import Student

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SERVERS, GPUS = 10, 8
STUDENTS = SERVERS * GPUS
ALL_READY_SECONDS = 60


class Meter:
    """The hub's processor time and largest memory between entry and exit."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.cpu_seconds = 0.0
        self.memory_bytes = 0

    def __enter__(self) -> Meter:
        self._before = sum(self._process.cpu_times()[:2])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(10)
        self.cpu_seconds = sum(self._process.cpu_times()[:2]) - self._before

    def _look(self) -> None:
        while not self._end.wait(0.2):
            self.memory_bytes = max(self.memory_bytes, self._process.memory_info().rss)


def test_eighty_students_start_at_once_on_ten_servers_and_leave_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    spawner = {"memory_limit": "64MiB", "temporary_space": "64MiB"}
    with (
        Cluster(tmp_path / "cluster", count=SERVERS, gpus=GPUS) as cluster,
        cluster.hub(tmp_path / "hub", students=STUDENTS, settings={"spawner": spawner}) as hub,
    ):
        print(f"\nten servers and the hub were ready after {time.monotonic() - began:.0f} s")
        with ThreadPoolExecutor(16) as doors:
            students = list(doors.map(lambda n: Student(hub, f"student{n}"), range(1, STUDENTS + 1)))

        def start(student: Student) -> float:
            last = student.start()
            assert last.get("ready"), (student.name, last)
            return time.monotonic() - pressed

        with Meter(hub.pid) as meter, ThreadPoolExecutor(STUDENTS) as people:
            pressed = time.monotonic()
            ready = sorted(people.map(start, students))
        p95 = ready[int(0.95 * STUDENTS) - 1]
        print(
            f"time to ready: p50 {statistics.median(ready):.1f} s, p95 {p95:.1f} s, longest {ready[-1]:.1f} s; "
            f"the hub took {meter.cpu_seconds:.1f} s of processor time and {meter.memory_bytes / 2**20:.0f} MiB"
        )
        held = [uuid for lease in hub.leases(live=True) for uuid in lease.gpu_uuids]
        assert len(held) == len(set(held)) == STUDENTS
        per_server = dict.fromkeys(cluster.containers(hub.hub_id, running=True).values(), 0)
        assert set(per_server) == {server.name for server in cluster.servers}
        assert all(student.ask_server().ok for student in students)

        pressed = time.monotonic()
        with ThreadPoolExecutor(STUDENTS) as people:
            list(people.map(Student.stop, students))
        wait_for(lambda: not hub.leftovers(), "nothing to be left", 120, every_seconds=1)
        print(f"all had stopped after {time.monotonic() - pressed:.1f} s")
        assert ready[-1] < ALL_READY_SECONDS
