"""A whole class presses start in the same second."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hubs import Hub, docker, wait_for
from light import light_image
from students import Student

if TYPE_CHECKING:
    from pathlib import Path

CLASS_SIZE = 20
GPUS = 8


def test_twenty_students_at_once_get_eight_gpus_and_twelve_clear_refusals(tmp_path: Path) -> None:
    with (
        Hub(tmp_path / "hub", gpus=GPUS, students=CLASS_SIZE, settings={"spawner": {"image": light_image()}}) as hub,
        ThreadPoolExecutor(CLASS_SIZE) as at_once,
    ):
        names = [f"student{number}" for number in range(1, CLASS_SIZE + 1)]
        students = list(at_once.map(lambda name: Student(hub, name), names))
        last = dict(zip(names, at_once.map(lambda student: student.start(), students), strict=True))

        served = [student for student in students if last[student.name].get("ready")]
        refused = [student for student in students if not last[student.name].get("ready")]
        assert (len(served), len(refused)) == (GPUS, CLASS_SIZE - GPUS)
        for student in served:
            assert student.ask_server().json() == {"version": "light"}
        for student in refused:
            refusal = last[student.name]["message"]
            assert "All GPUs are taken (of 8 GPUs: 8 taken)" in refusal
            assert "start without a GPU" in refusal
        assert_each_holds_a_gpu_of_its_own(hub, served)

        assert all(student.stop().status_code in (202, 204) for student in served)
        wait_for(lambda: not hub.leftovers(), f"nothing to be left: {hub.leftovers()}")
        assert volumes(hub) == {hub.volume_prefix + student.name for student in served}
        statuses = [status for student in students for status in student.statuses]
        assert max(statuses) < 500, sorted(set(statuses))


def assert_each_holds_a_gpu_of_its_own(hub: Hub, served: list[Student]) -> None:
    """Ledger, labels, and what the servers see for themselves say the same."""
    leased = {lease.user: lease.gpu_uuids for lease in hub.leases(live=True)}
    assert set(leased) == {student.name for student in served}
    assert all(len(uuids) == 1 for uuids in leased.values())
    assert {uuid for uuids in leased.values() for uuid in uuids} == {gpu.uuid for gpu in hub.simulator.gpus()}
    seen = {student.name: student.ask_server("light/environment").json() for student in served}
    assert {name: (env["NVIDIA_VISIBLE_DEVICES"],) for name, env in seen.items()} == leased
    labelled = [labels(container) for container in hub.containers(running=True)]
    assert {found["idlhub.user"]: (found["idlhub.gpus"],) for found in labelled} == leased


def labels(container: str) -> dict[str, str]:
    pairs = docker("inspect", "-f", "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}\n{{end}}", container)
    return dict(line.split("=", 1) for line in pairs.splitlines() if line)


def volumes(hub: Hub) -> set[str]:
    """Return the volumes of this hub's students; others could only be a container's own, which go with it."""
    return set(docker("volume", "ls", "-q", "--filter", f"name={hub.volume_prefix}").split())
