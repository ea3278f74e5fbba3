"""Errors that the driver reports by itself: seen for each GPU, whatever the others do, and bounded."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agents import RunningAgent

from idl_hub.cli import main
from idl_hub.gpus import HealthState, ServerReading
from idl_hub.gpus.nvml import Nvml
from idl_hub.gpus.reading import XIDS_KEPT, Xid
from idl_hub.gpus.simulator import NO_FAULT, Fault, Simulator
from idl_hub.gpus.xids import CODES_KEPT, XidLog

pytest_plugins = ["simulated_gpus"]


@pytest.fixture
def nvml(simulator: Simulator, simulator_library: Path) -> Iterator[Nvml]:
    nvml = Nvml("here", library=simulator_library, watch_xids=True)
    yield nvml
    simulator.reset()
    nvml.close()
    assert watching() == []


def watching() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("NVML XIDs"))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.02)


def reading_with_xid(nvml: Nvml, simulator: Simulator, index: int, code: int) -> ServerReading:
    """Report an XID until it is seen: a watch may only just begin."""

    reported_at = 0.0

    def seen() -> bool:
        nonlocal reported_at
        if any(xid.code == code for xid in nvml.read().gpus[index].xids):
            return True
        if time.monotonic() > reported_at + 2:
            reported_at = time.monotonic()
            simulator.report_xid(index, code)
        return False

    until(seen)
    return nvml.read()


def test_the_agent_tells_which_error_a_lost_gpu_had(
    simulator: Simulator, simulator_library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunningAgent(simulator, simulator_library, tmp_path) as agent:
        agent.reading_where(lambda reading: reading.health.ok)
        until(lambda: simulator.calls().get("nvmlEventSetWait_v2", 0) >= 24)  # all eight listen
        before = time.time()
        assert main(["simulate", "gpu", "3", "--xid", "79", "--fault", "lost"]) == 0
        reading = agent.reading_where(
            lambda reading: bool(reading.gpus[3].xids) and reading.gpus[3].health.state is HealthState.LOST
        )
    (xid,) = reading.gpus[3].xids
    assert xid.code == 79
    assert before - 3 < xid.at < time.time() + 3
    assert [gpu.index for gpu in reading.gpus if gpu.xids] == [3]


def test_of_many_errors_the_newest_are_kept_and_all_are_counted(nvml: Nvml, simulator: Simulator) -> None:
    simulator.create(1)
    nvml.read()
    until(lambda: simulator.calls().get("nvmlEventSetWait_v2", 0) > 0)
    for first in range(1, 41, 10):  # the driver, too, keeps only so many that nobody took
        for code in range(first, first + 10):
            simulator.report_xid(0, code)
        until(lambda last=code: bool(xids := nvml.read().gpus[0].xids) and xids[-1].code == last)
    kept = nvml.read().gpus[0].xids
    assert [xid.code for xid in kept] == list(range(41 - XIDS_KEPT, 41))
    assert {code: count for (_, code), (count, _) in nvml.xids.counts().items()} == dict.fromkeys(range(1, 41), 1)


def test_a_gpu_that_hangs_does_not_hold_up_the_errors_of_others(nvml: Nvml, simulator: Simulator) -> None:
    simulator.set(0, fault=Fault.hang(1000, "nvmlDeviceRegisterEvents"))
    reading = reading_with_xid(nvml, simulator, 1, 31)
    assert [gpu.index for gpu in reading.gpus if gpu.xids] == [1]
    simulator.set(0, fault=NO_FAULT)
    reading_with_xid(nvml, simulator, 0, 79)


def test_errors_are_remembered_and_seen_again_after_nvml_was_started_anew(nvml: Nvml, simulator: Simulator) -> None:
    reading_with_xid(nvml, simulator, 2, 62)
    simulator.set_driver(Fault.no_driver())
    until(lambda: not nvml.read().health.ok)
    assert nvml.read().gpus[2].xids[0].code == 62
    simulator.set_driver(NO_FAULT)
    until(lambda: nvml.read().health.ok)
    reading = reading_with_xid(nvml, simulator, 2, 48)
    assert reading.gpus[2].xids[0].code == 62
    assert watching() == [f"NVML XIDs of GPU {index}" for index in range(8)], "none is left of the first time"


def test_a_driver_that_reports_none_is_no_error(nvml: Nvml, simulator: Simulator) -> None:
    for index in range(8):
        simulator.set(index, fault=Fault.error(3, "nvmlDeviceRegisterEvents"))
    assert all(gpu.health.ok for gpu in nvml.read().gpus)
    until(lambda: watching() == [])
    assert nvml.errors.snapshot() == {}


def test_a_flood_of_made_up_codes_does_not_fill_the_memory() -> None:
    log = XidLog()
    for code in range(10_000):
        log.add("GPU-a", Xid(code, 1.0))
    log.add("GPU-b", Xid(79, 2.0))
    assert len(log.newest("GPU-a")) == XIDS_KEPT
    assert len(log.counts()) == CODES_KEPT + 1
    assert log.counts()["GPU-b", 79] == (1, 2.0)
    assert log.newest("GPU-c") == log.newest(None) == ()
