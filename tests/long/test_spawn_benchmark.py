"""The spawn benchmark in full, and a class with the real student image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from benchmarks import spawn
from hubs import Hub, wait_for
from students import Student

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def test_a_start_is_clearly_faster_than_stocks_and_a_class_of_20_all_get_servers(tmp_path: Path) -> None:
    # With the same image what is saved is the hub's own waiting; docs/explanation/spawn-time.md has the numbers.
    result = spawn.measure(tmp_path, runs=10, class_size=20)
    told = spawn.as_text(result)
    assert result.ratio < 0.8, told
    assert result.ours.at_once_ready == 20, told


def test_a_class_with_the_real_image_gets_eight_gpus_and_twelve_refusals(tmp_path: Path) -> None:
    with Hub(tmp_path / "hub", gpus=8, students=20) as hub, ThreadPoolExecutor(20) as at_once:
        students = list(at_once.map(lambda number: Student(hub, f"student{number}"), range(1, 21)))
        last = list(at_once.map(lambda student: student.start(), students))
        served = [student for student, event in zip(students, last, strict=True) if event.get("ready")]
        refused = [event["message"] for event in last if not event.get("ready")]
        assert len(served) == 8, hub.log_tail()
        assert all("All GPUs are taken" in message for message in refused)
        held = [uuid for lease in hub.leases(live=True) for uuid in lease.gpu_uuids]
        assert len(held) == len(set(held)) == 8
        assert all("version" in student.ask_server().json() for student in served)
        assert all(student.stop().status_code in (202, 204) for student in served)
        wait_for(lambda: not hub.leftovers(), "nothing to be left", 60)
        assert max(status for student in students for status in student.statuses) < 500
