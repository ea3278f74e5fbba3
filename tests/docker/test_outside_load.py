"""GPUs that somebody outside the hub uses, that are lost, and a driver that does not work at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hubs import Hub, wait_for
from light import light_image
from students import Student

from idl_hub.gpus.simulator.driver import Fault, SimulatedProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub of its own for each test: a hub remembers what was wrong with a GPU."""
    with Hub(tmp_path / "hub", gpus=3, students=5, settings={"spawner": {"image": light_image()}}) as one:
        yield one


def wait_for_page(hub: Hub, shown: str, *, but_not: str = "\0") -> str:
    """Wait until the start page shows a text: readings are taken once a second."""
    viewer = Student(hub, "student5")
    wait_for(lambda: shown in (page := viewer.start_page()) and but_not not in page, f"the page to show {shown!r}", 20)
    return viewer.start_page()


def given_out(hub: Hub) -> set[int]:
    return {index for lease in hub.leases(live=True) for index in lease.gpu_indices}


@pytest.mark.parametrize(
    "load",
    [
        {"utilization_ratio": 0.8},
        {"memory_used_bytes": 9 * 2**30},
        {"processes": [SimulatedProcess(4242, 200 * 2**20)]},
    ],
    ids=["computing", "memory", "a program"],
)
def test_a_gpu_used_from_outside_the_hub_is_passed_over(hub: Hub, load: dict[str, object]) -> None:
    hub.simulator.set(0, **load)  # type: ignore[arg-type]
    wait_for_page(hub, "2 of 3 free")
    Student(hub, "student1").started()
    assert given_out(hub) == {1}


def test_while_the_free_gpus_are_used_from_outside_nobody_gets_one(hub: Hub) -> None:
    for index in (0, 1):
        hub.simulator.set(index, utilization_ratio=1.0)
    wait_for_page(hub, "1 of 3 free")
    Student(hub, "student1").started()
    assert "start without a GPU" in Student(hub, "student2").start()["message"]
    assert given_out(hub) == {2}


def test_a_lost_gpu_is_not_given_out_and_the_reason_is_shown(hub: Hub) -> None:
    hub.simulator.set(0, fault=Fault.lost())
    page = wait_for_page(hub, "1 GPU is out of order")
    assert "GPU 0 of this machine: " in page
    assert "lost" in page.lower() or "fell off the bus" in page.lower()
    for name in ("student1", "student2"):
        Student(hub, name).started()
    assert given_out(hub) == {1, 2}
    assert "start without a GPU" in Student(hub, "student3").start()["message"]
    assert "GPU 0 of this machine: " in Student(hub, "student3").start_page()


def test_when_the_driver_fails_running_sessions_go_on_and_others_start_without_gpu(hub: Hub) -> None:
    holder = Student(hub, "student1").started()
    hub.simulator.set_driver(Fault.no_driver())
    wait_for_page(hub, "0 of")
    assert Student(hub, "student2").started(gpu="none").ask_server().ok
    assert "start without a GPU" in Student(hub, "student3").start()["message"]
    assert holder.ask_server().ok
    assert {lease.user: len(lease.gpu_uuids) for lease in hub.leases(live=True)} == {"student1": 1, "student2": 0}


def test_with_a_broken_nvml_library_sessions_without_gpu_start(tmp_path: Path) -> None:
    broken = tmp_path / "libnvidia-ml.so.1"
    broken.write_text("this is no library")
    settings = {"spawner": {"image": light_image()}, "gpus": {"simulator_library": str(broken)}}
    with Hub(tmp_path / "hub", gpus=2, students=2, settings=settings) as hub:
        student = Student(hub, "student1")
        assert "No GPU is known to the hub right now" in student.start_page()
        assert student.started(gpu="none").ask_server().ok
        assert "start without a GPU" in Student(hub, "student2").start()["message"]
        assert student.stop().status_code in (202, 204)
        wait_for(lambda: not hub.leftovers(), "nothing to be left")
