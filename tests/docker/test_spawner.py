"""What a student's container is, what the student is told, and that nothing a start runs into leaks."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hubs import docker, wait_for
from light import IMAGE
from students import Student

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Classroom

GIB = 2**30


def inspect(container: str) -> dict[str, Any]:
    [shown] = json.loads(docker("inspect", container))
    return shown  # type: ignore[no-any-return]


@contextmanager
def start_held(classroom: Classroom, student: Student, request: str, *, answers: bool) -> Iterator[None]:
    """Begin a start and hold it at a request to the engine, or at its answer, for the length of the block."""
    classroom.door.hold(request, answers=answers)
    with ThreadPoolExecutor(1) as beside:
        starting = beside.submit(student.submit_start)
        assert classroom.door.held.wait(20), f"the start never came to {request}"
        yield
        starting.result()


def test_a_container_has_the_limits_labels_and_rights_that_are_documented(classroom: Classroom) -> None:
    Student(classroom.hub, "student1").started()
    lease = classroom.lease_of("student1")
    shown = inspect(lease.container_id)
    host, config = shown["HostConfig"], shown["Config"]
    assert {key: host[key] for key in ("Memory", "MemorySwap", "PidsLimit", "ShmSize", "CpuShares", "Init")} == {
        "Memory": 26 * GIB,
        "MemorySwap": 26 * GIB,
        "PidsLimit": 2048,
        "ShmSize": 2 * GIB,
        "CpuShares": 2560,
        "Init": True,
    }
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (
        config["Labels"]
        | {
            "idlhub.lease": lease.id,
            "idlhub.hub": classroom.hub.hub_id,
            "idlhub.user": "student1",
            "idlhub.gpus": lease.gpu_uuids[0],
        }
        == config["Labels"]
    )
    assert f"NVIDIA_VISIBLE_DEVICES={lease.gpu_uuids[0]}" in config["Env"]
    [binding] = host["PortBindings"]["8888/tcp"]
    assert binding["HostIp"] == "127.0.0.1"
    assert docker("exec", lease.container_id, "id", "-u") == "1000"
    mounts = {(mount["Type"], mount["Destination"], mount["RW"]) for mount in shown["Mounts"]}
    assert mounts == {("volume", "/home/student", True), ("bind", "/run/idl_hub/simulator", False)}


def test_with_a_real_driver_the_engine_is_asked_for_the_leased_card_by_uuid(classroom: Classroom) -> None:
    classroom.turn("student1", simulator_state="")
    student = Student(classroom.hub, "student1")
    with start_held(classroom, student, "/start", answers=False):
        lease = classroom.lease_of("student1")
        shown = inspect(lease.container_id)
        classroom.door.open()
    [request] = shown["HostConfig"]["DeviceRequests"]
    assert (request["DeviceIDs"], request["Capabilities"]) == (list(lease.gpu_uuids), [["gpu"]])
    assert f"NVIDIA_VISIBLE_DEVICES={lease.gpu_uuids[0]}" in shown["Config"]["Env"]
    assert not any(variable.startswith("IDLHUB_SIMULATOR") for variable in shown["Config"]["Env"])
    assert {mount["Type"] for mount in shown["Mounts"]} == {"volume"}


def test_what_the_engine_says_about_a_failed_start_reaches_the_student(classroom: Classroom) -> None:
    classroom.turn("student1", extra_host_config={"sysctls": {"net.ipv4.no_such_thing": "1"}})
    message = Student(classroom.hub, "student1").start()["message"]
    assert "The Docker engine refused to start your server" in message
    assert "no_such_thing" in message
    wait_for(lambda: not classroom.hub.leftovers(), "the start to be cleaned up")


def test_options_of_dockerspawner_keep_their_meaning(classroom: Classroom) -> None:
    classroom.turn("student1", name_template="lab-{username}-{lease}", volumes={
        classroom.hub.volume_prefix + "{username}": "/home/student",
        classroom.hub.volume_prefix + "shared-{username}": "/srv/shared",
    })  # fmt: skip
    classroom.hub.api("POST", "/users/student1/server", {"image": "light"})
    wait_for(lambda: classroom.lease_of("student1").phase == "running", "the server")
    lease = classroom.lease_of("student1")
    shown = inspect(lease.container_id)
    assert shown["Name"] == f"/lab-student1-{lease.id}"
    assert {mount["Name"] for mount in shown["Mounts"] if mount["Type"] == "volume"} == {
        classroom.hub.volume_prefix + "student1",
        classroom.hub.volume_prefix + "shared-student1",
    }
    assert shown["Config"]["Image"] == IMAGE
    assert shown["Config"]["Labels"]["course"] == "deep learning for student1"
    assert shown["HostConfig"]["Sysctls"] == {"net.ipv4.ip_default_ttl": "77"}
    assert docker("exec", lease.container_id, "ls", "/tmp/after-start") == "/tmp/after-start"


def test_an_image_that_is_not_offered_is_refused(classroom: Classroom) -> None:
    student = Student(classroom.hub, "student1")
    answer = student.request("POST", "/hub/api/users/student1/server", json={"image": "idl-hub/student:latest"})
    assert answer.status_code == 400, answer.text
    assert "not in allowed list" in answer.text


def test_every_viewer_of_the_progress_sees_all_of_it(classroom: Classroom) -> None:
    classroom.slow_start("student1", 3)
    first, second, late = (Student(classroom.hub, "student1") for _ in range(3))
    with ThreadPoolExecutor() as viewers:
        assert first.submit_start().status_code == 302
        early = [viewers.submit(viewer.events) for viewer in (first, second)]
        wait_for(lambda: (lease := classroom.lease_of("student1")) and lease.container_id, "a container")
        seen = [viewing.result() for viewing in (*early, viewers.submit(late.events))]
    told = [[event["message"] for event in events] for events in seen]
    assert told[0] == told[1] == told[2]
    text = "\n".join(told[0])
    gpu = classroom.lease_of("student1").gpu_indices[0]
    expected = (
        "Looking for a free GPU",
        rf"GPU {gpu} of this machine is yours: NVIDIA GeForce GTX 1080 Ti \(simulated\): idle.*, 31 °C",
        f"Looking for the image {IMAGE}",
        "Making your container",
        "Your container is made",
        "JupyterLab is starting",
        "JupyterLab answers",
        "Server ready",
    )
    assert re.search(".*".join(expected), text, re.DOTALL), text


# -- a start that is cut off ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_held", "answers"),
    [("/images/", False), ("containers/create", False), ("containers/create", True), ("/start", False)],
    ids=["before the container is made", "while it is asked for", "once it is made", "before it is started"],
)
def test_stop_pressed_in_a_start_leaks_nothing(classroom: Classroom, request_held: str, answers: bool) -> None:
    student = Student(classroom.hub, "student1")
    with start_held(classroom, student, request_held, answers=answers):
        assert student.stop().status_code in (202, 204)
        classroom.door.open()
    wait_for(lambda: not classroom.hub.leftovers(), "the start to be cleaned up")
    assert student.started().ask_server().ok


def test_stop_pressed_while_jupyter_starts_leaks_nothing(classroom: Classroom) -> None:
    classroom.slow_start("student1", 60)
    student = Student(classroom.hub, "student1")
    with ThreadPoolExecutor(1) as beside:
        starting = beside.submit(student.submit_start)
        wait_for(lambda: classroom.hub.containers(running=True), "the container to run")
        assert student.stop().status_code in (202, 204)
        starting.result()
    wait_for(lambda: not classroom.hub.leftovers(), "the start to be cleaned up")
    classroom.turn("student1")
    assert student.started().ask_server().ok


def test_a_start_that_takes_too_long_is_given_up_and_says_so(classroom: Classroom) -> None:
    classroom.slow_start("student1", 60, start_timeout=3)
    student = Student(classroom.hub, "student1")
    last = student.start()
    assert last.get("failed"), last
    wait_for(lambda: not classroom.hub.leftovers(), "the start to be cleaned up")
    classroom.turn("student1")
    assert student.started().ask_server().ok


def test_a_container_that_dies_at_once_is_reported_and_frees_its_gpu(classroom: Classroom) -> None:
    classroom.turn("student1", cmd="false")
    last = Student(classroom.hub, "student1").start()
    assert "Your server ended while it was starting" in last["message"]
    wait_for(lambda: not classroom.hub.leftovers(), "the start to be cleaned up")


def test_a_missing_image_is_reported_and_frees_its_gpu(classroom: Classroom) -> None:
    classroom.turn("student1", image="idl-hub/nobody-made-this:1", pull_policy="never")
    last = Student(classroom.hub, "student1").start()
    assert "The image idl-hub/nobody-made-this:1 or something else your server needs is missing" in last["message"]
    wait_for(lambda: not classroom.hub.leftovers(), "the start to be cleaned up")


# -- containers of others -------------------------------------------------------------------------------


@contextmanager
def foreign_container(name: str, *labels: str) -> Iterator[str]:
    """Run a container of somebody else for the length of the block."""
    given = [word for label in labels for word in ("--label", label)]
    container = docker("run", "-d", "--name", name, *given, IMAGE, "sleep", "600")
    try:
        yield container
    finally:
        docker("rm", "-f", container)


def test_a_container_of_somebody_else_with_the_same_name_is_left_alone(classroom: Classroom) -> None:
    name = f"{classroom.hub.volume_prefix}in-the-way"
    classroom.turn("student1", name_template=name)
    with foreign_container(name) as container:
        last = Student(classroom.hub, "student1").start()
        assert f"A container named {name} is in the way" in last["message"]
        wait_for(lambda: not classroom.hub.leftovers(), "the start to be cleaned up")
        assert inspect(container)["State"]["Running"]


def test_a_gpu_used_by_a_container_of_another_hub_counts_as_taken(classroom: Classroom) -> None:
    hub = classroom.hub
    used, *free = [gpu.uuid for gpu in hub.simulator.gpus()]
    labels = ("idlhub.hub=another", "idlhub.lease=another", f"idlhub.gpus={used}")
    with foreign_container(f"{hub.volume_prefix}another", *labels) as container:
        viewer = Student(hub, "student5")
        # The hub looks at its engines every 15 s.
        wait_for(lambda: "2 of 3 free" in viewer.start_page(), "the hub to see the other's container", 25)
        for name in ("student1", "student2"):
            Student(hub, name).started()
        assert {uuid for lease in hub.leases(live=True) for uuid in lease.gpu_uuids} == set(free)
        assert "All GPUs are taken" in Student(hub, "student3").start()["message"]
        assert inspect(container)["State"]["Running"]
