"""From a PID to its container, under every naming that engines use."""

import os
import subprocess
from pathlib import Path

import pytest

from idl_hub.gpus.processes import NOWHERE, HostProcesses, Whereabouts, container_of
from idl_hub.gpus.reading import ProcessOrigin

A = "a1" * 32
B = "b2" * 32
POD = "pod0a1b2c3d-1111-2222-3333-444455556666"
V1 = "\n".join(f"{number}:{name}:{{}}" for number, name in enumerate(("cpu,cpuacct", "memory", "name=systemd"), 1))


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        (f"0::/docker/{A}\n", A),
        (f"0::/system.slice/docker-{A}.scope\n", A),
        (f"0::/system.slice/docker-{A}.scope/init\n", A),
        (f"0::/students.slice/docker-{A}.scope\n", A),
        (f"0::/students/{A}\n", A),
        (V1.format(f"/docker/{A}", f"/docker/{A}", f"/docker/{A}") + "\n0::/\n", A),
        (V1.format("/", f"/docker/{A}", f"/system.slice/docker-{A}.scope"), A),
        (f"0::/kubepods/burstable/{POD}/{A}\n", A),
        (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-{POD}.slice/cri-containerd-{A}.scope\n", A),
        (f"0::/kubepods.slice/kubepods-besteffort.slice/crio-{A}.scope/container\n", A),
        (f"11:memory:/system.slice/containerd.service/kubepods-burstable-{POD}.slice:cri-containerd:{A}\n", A),
        (f"0::/default/{A}\n", A),
        (f"0::/docker/{A}/docker/{B}\n", A),
        (f"0::/docker/{A}/system.slice/docker-{B}.scope\n", A),
        (f"0::/../{A}\n", A),
        (f"0::/../../system.slice/docker-{A}.scope\n", A),
        (f"0::/docker/{A} (deleted)\n", A),
        ("0::/\n", None),
        ("0::/init.scope\n", None),
        ("0::/system.slice/ssh.service\n", None),
        ("0::/system.slice/docker.service\n", None),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
        (f"0::/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{A}.scope\n", None),
        (f"0::/system.slice/docker-{A[:-1]}.scope\n", None),
        (f"0::/system.slice/docker-{A}0.scope\n", None),
        (f"0::/system.slice/docker-{A.upper()}.scope\n", None),
        ("0::/docker/buildkit/abcdefghijklmnopqrstuvwxy\n", None),
        ("garbage", None),
        ("", None),
    ],
)
def test_the_container_is_read_from_the_cgroup(cgroup: str, container: str | None) -> None:
    assert container_of(cgroup) == container


def write_process(proc: Path, pid: int, cgroup: str, status: str = "Name:\tpython3\nUid:\t1000\t0\t0\t0\n") -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cgroup").write_text(cgroup)
    (folder / "status").write_text(status)


def test_a_process_is_in_a_container_outside_or_unknown(tmp_path: Path) -> None:
    processes = HostProcesses(tmp_path)
    write_process(tmp_path, 10, f"0::/docker/{A}\n")
    write_process(tmp_path, 11, "0::/user.slice\n", "Name:\tsshd\nUid:\t0\t0\t0\t0\n")
    write_process(tmp_path, 12, "")
    write_process(tmp_path, 13, f"0::/docker/{A}\n", "Name:\tending\n")
    assert processes.find(10) == Whereabouts(ProcessOrigin.CONTAINER, A, 1000)
    assert processes.find(11) == Whereabouts(ProcessOrigin.OUTSIDE, None, 0)
    assert processes.find(12) == processes.find(13) == processes.find(14) == NOWHERE


def test_the_pid_that_a_container_knows_is_the_innermost_one(tmp_path: Path) -> None:
    processes = HostProcesses(tmp_path)
    status = "Name:\tpython3\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t4711\t17\n"
    write_process(tmp_path, 10, f"0::/docker/{A}\n", status)
    write_process(tmp_path, 11, "0::/user.slice\n", status)
    assert processes.find(10).pid_in_container == 17
    assert processes.find(11).pid_in_container is None


def test_a_name_that_looks_like_a_uid_line_deceives_nobody(tmp_path: Path) -> None:
    # The kernel writes a newline in a name as \\n.
    write_process(tmp_path, 10, "0::/\n", "Name:\tx\\nUid:\t0\nUmask:\t0022\nUid:\t1000\t1000\t1000\t1000\n")
    assert HostProcesses(tmp_path).find(10).uid == 1000


def test_real_processes_are_found_and_those_that_ended_are_not() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        found = HostProcesses().find(sleeping.pid)
        sleeping.kill()
    assert found.uid == os.getuid()
    assert found.origin is not ProcessOrigin.UNKNOWN
    assert HostProcesses().find(sleeping.pid) == NOWHERE


@pytest.mark.parametrize(("namespace", "hosts"), [("pid:[4026531836]", True), ("pid:[4026532201]", False)])
def test_pids_of_a_namespace_are_told_from_the_hosts(tmp_path: Path, namespace: str, hosts: bool) -> None:
    folder = tmp_path / "self" / "ns"
    folder.mkdir(parents=True)
    (folder / "pid").symlink_to(namespace)
    assert HostProcesses(tmp_path).are_the_hosts() is hosts
    assert not HostProcesses(tmp_path / "missing").are_the_hosts()
