"""What NVML's answers become, good and bad: real nvidia-ml-py on the simulator."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from idl_hub.gpus import HealthState, ServerReading
from idl_hub.gpus.nvml import Nvml
from idl_hub.gpus.simulator import NO_FAULT, Fault, SimulatedProcess, Simulator

pytest_plugins = ["simulated_gpus"]

MIB, GIB = 2**20, 2**30


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def nvml(simulator: Simulator, simulator_library: Path, clock: Clock) -> Iterator[Nvml]:
    nvml = Nvml("gpu-server-1", library=simulator_library, clock=lambda: 1234.5, monotonic=clock)
    yield nvml
    nvml.close()


def states(reading: ServerReading) -> list[str]:
    return [gpu.health.state.value for gpu in reading.gpus]


def test_a_reading_tells_who_and_how_every_gpu_is(nvml: Nvml, simulator: Simulator) -> None:
    simulator.set(3, utilization_ratio=0.8, memory_used_bytes=9 * GIB, temperature_celsius=71, power_watts=201.5)
    reading = nvml.read()
    gpu = reading.gpus[3]
    assert (reading.server, reading.taken_at, reading.driver_version) == ("gpu-server-1", 1234.5, "580.95.05")
    assert reading.simulated
    assert reading.health.ok
    assert [gpu.uuid for gpu in reading.gpus] == [gpu.uuid for gpu in simulator.gpus()]
    assert [gpu.index for gpu in reading.gpus] == list(range(8))
    assert len({gpu.pci_bus_id for gpu in reading.gpus}) == 8
    assert (gpu.name, gpu.pci_bus_id) == ("NVIDIA GeForce GTX 1080 Ti", "00000000:07:00.0")
    assert gpu.memory_total_bytes == 11264 * MIB
    assert gpu.memory_used_bytes == 9 * GIB
    assert gpu.memory_free_bytes == 11264 * MIB - 9 * GIB - 91 * MIB  # the driver keeps some for itself
    assert (gpu.utilization_ratio, gpu.temperature_celsius, gpu.power_watts) == (0.8, 71, 201.5)
    assert gpu.processes == ()
    assert gpu.health.ok


def test_processes_come_with_memory_and_name_also_those_that_are_not_here(nvml: Nvml, simulator: Simulator) -> None:
    gone = 4_194_304 + 7  # above the kernel's highest PID
    me = SimulatedProcess(os.getpid(), 2 * GIB)
    simulator.set(0, processes=[me, SimulatedProcess(gone, None), SimulatedProcess(1, 30 * MIB, graphics=True)])
    processes = {process.pid: process for process in nvml.read().gpus[0].processes or ()}
    assert processes.keys() == {os.getpid(), gone, 1}
    assert processes[os.getpid()].memory_used_bytes == 2 * GIB
    assert "python" in (processes[os.getpid()].name or "")
    assert (processes[gone].memory_used_bytes, processes[gone].name) == (None, None)
    assert processes[1].memory_used_bytes == 30 * MIB


def test_a_process_named_in_broken_unicode_does_no_harm(nvml: Nvml, simulator: Simulator) -> None:
    with subprocess.Popen([b"\xff\xfe\xff", b"60"], executable="/bin/sleep") as hostile:
        try:
            wait_until_named(hostile.pid)
            simulator.set(0, processes=[SimulatedProcess(hostile.pid, GIB)])
            reading = nvml.read()
        finally:
            hostile.kill()
    assert [(process.pid, process.name) for process in reading.gpus[0].processes or ()] == [(hostile.pid, None)]
    assert states(reading) == ["ok"] * 8


def wait_until_named(pid: int) -> None:
    """Wait until the process has become the program that it was started for."""
    end = time.monotonic() + 10
    while not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"\xff"):
        assert time.monotonic() < end, "the process never came to life"
        time.sleep(0.005)


def test_what_is_not_supported_is_none_and_no_illness(nvml: Nvml, simulator: Simulator) -> None:
    simulator.set(1, fault=Fault.error(pynvml.NVML_ERROR_NOT_SUPPORTED, "nvmlDeviceGetUtilizationRates"))
    gpu = nvml.read().gpus[1]
    assert gpu.utilization_ratio is None
    assert gpu.temperature_celsius == 31
    assert gpu.health.ok


def test_idle_values_are_zero_and_not_none(nvml: Nvml, simulator: Simulator) -> None:
    simulator.set(0, memory_used_bytes=0, utilization_ratio=0, temperature_celsius=0, power_watts=0)
    gpu = nvml.read().gpus[0]
    assert (gpu.memory_used_bytes, gpu.utilization_ratio, gpu.temperature_celsius, gpu.power_watts) == (0, 0, 0, 0)


def test_a_broken_function_is_named_and_the_rest_is_still_read(nvml: Nvml, simulator: Simulator) -> None:
    simulator.set(1, fault=Fault.error(pynvml.NVML_ERROR_UNKNOWN, "nvmlDeviceGetTemperature"))
    reading = nvml.read()
    gpu = reading.gpus[1]
    assert (gpu.health.state, gpu.health.nvml_code) == (HealthState.ERROR, 999)
    assert "nvmlDeviceGetTemperature" in gpu.health.words
    assert gpu.temperature_celsius is None
    assert gpu.power_watts == 9
    assert states(reading).count("ok") == 7


def test_a_lost_gpu_keeps_its_identity_while_the_others_flow_and_can_come_back(
    nvml: Nvml, simulator: Simulator
) -> None:
    before = nvml.read().gpus[2]
    simulator.set(2, fault=Fault.lost())
    reading = nvml.read()
    lost = reading.gpus[2]
    assert states(reading) == ["ok", "ok", "lost", "ok", "ok", "ok", "ok", "ok"]
    assert (lost.uuid, lost.index, lost.name, lost.pci_bus_id) == (
        before.uuid, before.index, before.name, before.pci_bus_id,
    )  # fmt: skip
    assert (lost.memory_used_bytes, lost.utilization_ratio, lost.processes) == (None, None, None)
    simulator.set(2, fault=NO_FAULT)
    assert nvml.read().gpus[2] == before


def test_a_gpu_that_was_lost_from_the_start_is_there_without_identity(nvml: Nvml, simulator: Simulator) -> None:
    simulator.set(5, fault=Fault.lost())
    gpu = nvml.read().gpus[5]
    assert (gpu.uuid, gpu.index, gpu.health.state) == (None, 5, HealthState.LOST)


def test_a_gpu_that_may_not_be_opened_is_ill_and_not_fine_without_values(nvml: Nvml, simulator: Simulator) -> None:
    simulator.set(5, fault=Fault.error(pynvml.NVML_ERROR_NO_PERMISSION))
    gpu = nvml.read().gpus[5]
    assert (gpu.health.state, gpu.health.nvml_code) == (HealthState.ERROR, pynvml.NVML_ERROR_NO_PERMISSION)


def test_gpus_that_the_driver_no_longer_lists_are_reported_lost(nvml: Nvml, simulator: Simulator) -> None:
    uuids = [gpu.uuid for gpu in nvml.read().gpus]
    simulator.create(6)
    reading = nvml.read()
    assert [gpu.uuid for gpu in reading.gpus] == uuids
    assert states(reading) == ["ok"] * 6 + ["lost"] * 2
    nvml.close()  # a new start of NVML counts six
    assert states(nvml.read()) == ["ok"] * 6 + ["lost"] * 2
    assert [gpu.uuid for gpu in nvml.read().gpus] == uuids


def test_a_mute_gpu_is_not_taken_for_one_that_only_changed_its_number(
    nvml: Nvml, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuids = [gpu.uuid or "" for gpu in nvml.read().gpus]
    nvml.close()
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", ",".join(uuids[:2] + uuids[3:]))  # GPU 2 is gone, later ones move up
    simulator.set(4, fault=Fault.lost())  # is now number 3, as the sound GPU before it was
    reading = nvml.read()
    assert {gpu.uuid for gpu in reading.gpus} == {None, *uuids}
    assert {gpu.uuid for gpu in reading.gpus if not gpu.health.ok} == {None, uuids[2], uuids[4]}


def test_a_driver_that_is_not_loaded_is_a_state_and_is_found_once_it_is(
    nvml: Nvml, simulator: Simulator, clock: Clock
) -> None:
    simulator.set_driver(Fault.no_driver())
    reading = nvml.read()
    assert (reading.health.state, reading.health.nvml_code) == (HealthState.DRIVER_NOT_LOADED, 9)
    assert reading.gpus == ()
    simulator.set_driver(NO_FAULT)
    assert not nvml.read().health.ok, "it should wait a second before it tries again"
    clock.now += 1
    assert states(nvml.read()) == ["ok"] * 8


def test_when_the_driver_goes_away_the_gpus_stay_named_until_it_is_back(
    nvml: Nvml, simulator: Simulator, clock: Clock
) -> None:
    uuids = [gpu.uuid for gpu in nvml.read().gpus]
    simulator.set_driver(Fault.no_driver())
    for _ in range(3):
        reading = nvml.read()
        assert reading.health.state is HealthState.DRIVER_NOT_LOADED
        assert [gpu.uuid for gpu in reading.gpus] == uuids
        assert states(reading) == ["driver_not_loaded"] * 8
        clock.now += 10
    simulator.set_driver(NO_FAULT)
    clock.now += 30
    assert states(nvml.read()) == ["ok"] * 8


def test_an_nvml_that_somebody_else_shut_down_is_started_again(nvml: Nvml, clock: Clock) -> None:
    assert nvml.read().health.ok
    pynvml.nvmlShutdown()
    reading = nvml.read()
    assert (reading.health.state, reading.health.nvml_code) == (HealthState.ERROR, pynvml.NVML_ERROR_UNINITIALIZED)
    clock.now += 1
    assert states(nvml.read()) == ["ok"] * 8


def test_attempts_to_start_a_missing_driver_get_rarer_up_to_every_30_seconds(
    nvml: Nvml, simulator: Simulator, clock: Clock
) -> None:
    simulator.set_driver(Fault.no_driver())
    attempts = []
    for second in range(120):
        before = simulator.calls().get("nvmlInitWithFlags", 0)
        nvml.read()
        if simulator.calls().get("nvmlInitWithFlags", 0) > before:
            attempts.append(second)
        clock.now += 1
    assert attempts == [0, 1, 3, 7, 15, 31, 61, 91]


def test_nvml_is_initialised_once_and_a_snapshot_of_eight_gpus_takes_56_calls(nvml: Nvml, simulator: Simulator) -> None:
    nvml.read()
    start = simulator.calls()
    for _ in range(100):
        nvml.read()
    end = simulator.calls()
    assert end["nvmlInitWithFlags"] == 1
    assert "nvmlShutdown" not in end
    assert sum(end.values()) - sum(start.values()) == 100 * 56
    assert "nvmlDeviceGetPcieThroughput" not in end, "it takes 20 ms a call"


FIND_LATER = """
import shutil, sys
from idl_hub.gpus.nvml import Nvml
now = 0.0
nvml = Nvml("here", monotonic=lambda: now)
reading = nvml.read()
print(reading.health.state.value, reading.health.nvml_code, len(reading.gpus), reading.simulated)
shutil.copy(sys.argv[1], sys.argv[2] + "/new")
shutil.move(sys.argv[2] + "/new", sys.argv[2] + "/libnvidia-ml.so.1")
now = 1.0
reading = nvml.read()
print(reading.health.state.value, reading.health.nvml_code, len(reading.gpus), reading.simulated)
"""


def test_without_a_usable_library_there_is_a_state_and_a_driver_installed_later_is_found(
    simulator: Simulator, simulator_library: Path, tmp_path: Path
) -> None:
    (tmp_path / "libnvidia-ml.so.1").touch()  # stands before any real driver's library, and cannot be loaded
    done = subprocess.run(
        [sys.executable, "-c", FIND_LATER, str(simulator_library), str(tmp_path)],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["no_library 12 0 False", "ok None 8 True"], done.stderr


def test_a_stand_in_that_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    reading = Nvml("here", library=tmp_path / "missing.so").read()
    assert reading.health.state is HealthState.NO_LIBRARY
    assert "missing.so cannot be loaded" in reading.health.words


def test_a_state_file_that_is_none_reads_as_no_driver_and_says_where_to_look(
    simulator_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.state"
    broken.write_bytes(b"x" * 200_000)
    monkeypatch.setenv("IDLHUB_SIMULATOR_STATE", str(broken))
    reading = Nvml("here", library=simulator_library).read()
    assert reading.health.state is HealthState.DRIVER_NOT_LOADED
    assert str(broken) in reading.health.words


def test_a_state_file_may_be_read_only_as_in_a_container(
    simulator: Simulator, simulator_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "mounted" / "gpus.state"
    alone.parent.mkdir()
    shutil.copy(simulator.path, alone)
    alone.chmod(0o444)
    monkeypatch.setenv("IDLHUB_SIMULATOR_STATE", str(alone))
    nvml = Nvml("here", library=simulator_library)
    assert states(nvml.read()) == ["ok"] * 8
    nvml.close()
