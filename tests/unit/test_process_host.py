"""Sessions as plain processes: found by a variable in their environment, ended with their children."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil
import pytest

from idl_hub.spawners.process import LocalProcesses

if TYPE_CHECKING:
    from collections.abc import Iterator

Start = Callable[..., "subprocess.Popen[str]"]

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"


@pytest.fixture
def lease() -> str:
    return f"test{uuid.uuid4().hex[:8]}"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program of a lease and return it when it is up; ended after the test, come what may."""
    started: list[subprocess.Popen[str]] = []

    def start(lease_id: str, program: str = SLEEPER, **environment: str) -> subprocess.Popen[str]:
        env = {**os.environ, "IDLHUB_LEASE": lease_id, "IDLHUB_HUB": "hub", **environment}
        process = subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        for each in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            each.kill()
        process.communicate(timeout=20)


async def test_a_process_is_listed_with_its_lease_its_hub_and_its_cards(start: Start, lease: str) -> None:
    start(lease, NVIDIA_VISIBLE_DEVICES="GPU-1,GPU-2")
    (unit,) = [unit for unit in await LocalProcesses("here").units() if unit.lease_id == lease]
    assert (unit.hub_id, unit.running, unit.gpu_uuids) == ("hub", True, ("GPU-1", "GPU-2"))


@pytest.mark.parametrize("devices", ["void", ""])
async def test_a_process_without_a_card_holds_none(start: Start, lease: str, devices: str) -> None:
    start(lease, NVIDIA_VISIBLE_DEVICES=devices)
    (unit,) = [unit for unit in await LocalProcesses("here").units() if unit.lease_id == lease]
    assert unit.gpu_uuids == ()


async def test_many_processes_of_a_lease_are_one_session(start: Start, lease: str) -> None:
    start(lease, PARENT)
    start(lease)
    assert len([unit for unit in await LocalProcesses("here").units() if unit.lease_id == lease]) == 1


async def test_removing_ends_all_processes_of_the_lease_and_no_other(start: Start, lease: str) -> None:
    host = LocalProcesses("here", 5)
    mine, other = start(lease, PARENT), start(f"{lease}-other")
    children = psutil.Process(mine.pid).children(recursive=True)
    assert children
    await host.remove(str(mine.pid), lease)
    assert not host.runs(lease)
    assert all(not child.is_running() or child.status() == psutil.STATUS_ZOMBIE for child in children)
    assert other.poll() is None
    assert host.runs(f"{lease}-other")


async def test_a_process_that_does_not_listen_is_killed(start: Start, lease: str) -> None:
    host = LocalProcesses("here", 0.5)
    process = start(lease, STUBBORN)
    await host.remove(str(process.pid), lease)
    assert not host.runs(lease)
    assert not psutil.pid_exists(process.pid)


async def test_a_number_used_again_by_another_lease_is_left_alone(start: Start, lease: str) -> None:
    process = start(lease)
    await LocalProcesses("here", 1).remove(str(process.pid), f"{lease}-ended")
    assert process.poll() is None


async def test_what_ended_but_was_not_collected_does_not_run(start: Start, lease: str) -> None:
    process = start(lease)
    process.kill()
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, not collected
    host = LocalProcesses("here")
    assert not host.runs(lease)
    assert lease not in {unit.lease_id for unit in await host.units()}


async def test_removing_what_is_gone_is_fine(lease: str) -> None:
    await LocalProcesses("here").remove("1", lease)
