"""A whole class presses start in the same second."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hubs import Hub, docker, wait_for
from light import light_image
from students import Student

if TYPE_CHECKING:
    from pathlib import Path

CLASS_SIZE = 20
GPUS = 8


def test_twenty_students_at_once_get_eight_gpus_and_twelve_places_in_the_line(tmp_path: Path) -> None:
    with (
        Hub(tmp_path / "hub", gpus=GPUS, students=CLASS_SIZE, settings={"spawner": {"image": light_image()}}) as hub,
        ThreadPoolExecutor(CLASS_SIZE) as at_once,
    ):
        names = [f"student{number}" for number in range(1, CLASS_SIZE + 1)]
        students = {name: Student(hub, name) for name in names}
        last = dict(zip(names, at_once.map(lambda name: students[name].start(), names), strict=True))

        served = [name for name in names if last[name].get("ready")]
        refused = [name for name in names if not last[name].get("ready")]
        assert (len(served), len(refused)) == (GPUS, CLASS_SIZE - GPUS)
        places = {place_told(last[name]): name for name in refused}
        assert sorted(places) == list(range(1, CLASS_SIZE - GPUS + 1)), "everybody reads a place of their own"

        # Everybody's turn comes, in the order told, without their doing anything.
        line = [places[place] for place in sorted(places)]
        for now in (served, line[:GPUS], line[GPUS:]):
            wait_for(lambda now=now: holders(hub) == set(now), f"the servers of {now}", 60)
            for name in now:
                assert students[name].ask_server().json() == {"version": "light"}
            assert_each_holds_a_gpu_of_its_own(hub, [students[name] for name in now])
            assert all(students[name].stop().status_code in (202, 204) for name in now)

        wait_for(lambda: not hub.leftovers(), f"nothing to be left: {hub.leftovers()}")
        assert volumes(hub) == {hub.volume_prefix + name for name in names}
        statuses = [status for student in students.values() for status in student.statuses]
        assert max(statuses) < 500, sorted(set(statuses))


def place_told(last: dict[str, object]) -> int:
    """Return the place in the line that a refusal names, after a look at its other words."""
    refusal = str(last["message"])
    assert "All GPUs are taken." in refusal
    assert "start without a GPU" in str(last.get("html_message", refusal))
    [place] = re.findall(r"number (\d+) in line", refusal)
    return int(place)


def holders(hub: Hub) -> set[str]:
    return {lease.user for lease in hub.leases(live=True) if lease.phase == "running"}


def assert_each_holds_a_gpu_of_its_own(hub: Hub, served: list[Student]) -> None:
    """Ledger, labels, and what the servers see for themselves say the same."""
    leased = {lease.user: lease.gpu_uuids for lease in hub.leases(live=True)}
    assert set(leased) == {student.name for student in served}
    assert all(len(uuids) == 1 for uuids in leased.values())
    held = [uuid for uuids in leased.values() for uuid in uuids]
    assert len(set(held)) == len(served)
    assert set(held) <= {gpu.uuid for gpu in hub.simulator.gpus()}
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
