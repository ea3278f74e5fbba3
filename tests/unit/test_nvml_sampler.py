"""Reading in the background: what hangs is reported as hung, and nobody waits for it."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from idl_hub.gpus import GPU, HealthState, ServerReading
from idl_hub.gpus.nvml import Nvml, Sampler
from idl_hub.gpus.simulator import NO_FAULT, Fault, SimulatedProcess, Simulator

pytest_plugins = ["simulated_gpus"]

FOREVER = 1000.0


@pytest.fixture
def sampler(simulator: Simulator, simulator_library: Path) -> Iterator[Sampler]:
    nvml = Nvml("here", library=simulator_library)
    sampler = Sampler(nvml, period=0.05, deadline=0.3, start_deadline=0.3)
    yield sampler
    simulator.reset()
    sampler.stop()


def reading_where(sampler: Sampler, condition: Callable[[ServerReading], bool]) -> ServerReading:
    """Return the first reading from now on of which this is true."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        reading = sampler.latest()
        if reading is not None and condition(reading):
            return reading
        time.sleep(0.005)
    pytest.fail(f"never came true; the last reading is {sampler.latest()}")


def is_hung(index: int) -> Callable[[ServerReading], bool]:
    return lambda reading: reading.gpus[index].health.state is HealthState.HUNG


async def test_the_first_reading_can_be_awaited_and_has_every_gpu(sampler: Sampler, simulator: Simulator) -> None:
    assert sampler.latest() is None
    sampler.start()
    reading = await sampler.wait_first(10)
    assert [gpu.uuid for gpu in reading.gpus] == [gpu.uuid for gpu in simulator.gpus()]
    assert all(gpu.health.ok for gpu in reading.gpus)


async def test_waiting_for_the_first_reading_ends_at_the_deadline(sampler: Sampler) -> None:
    with pytest.raises(TimeoutError):
        await sampler.wait_first(0.05)  # it was not started


def test_changes_of_load_and_processes_arrive_by_themselves(sampler: Sampler, simulator: Simulator) -> None:
    sampler.start()
    reading_where(sampler, lambda reading: reading.gpus[4].utilization_ratio == 0)
    simulator.set(4, utilization_ratio=0.55, processes=[SimulatedProcess(4711, 2**30)])
    reading_where(sampler, lambda reading: reading.gpus[4].utilization_ratio == 0.55)
    reading = reading_where(sampler, lambda reading: bool(reading.gpus[4].processes))
    assert reading.gpus[4].memory_used_bytes == 2**30


def test_a_gpu_that_hangs_is_reported_while_the_others_flow_and_recovers(
    sampler: Sampler, simulator: Simulator
) -> None:
    sampler.start()
    healthy = reading_where(sampler, lambda reading: reading.gpus[2].health.ok)
    simulator.set(2, fault=Fault.hang(FOREVER))
    reading = reading_where(sampler, is_hung(2))
    hung = reading.gpus[2]
    assert (hung.uuid, hung.name) == (healthy.gpus[2].uuid, healthy.gpus[2].name)
    assert (hung.utilization_ratio, hung.memory_used_bytes, hung.processes) == (None, None, None)
    assert [gpu.index for gpu in reading.gpus if not gpu.health.ok] == [2]
    simulator.set(5, utilization_ratio=0.9)
    reading_where(sampler, lambda reading: reading.gpus[5].utilization_ratio == 0.9)
    simulator.set(2, fault=NO_FAULT)
    back: GPU = reading_where(sampler, lambda reading: reading.gpus[2].health.ok).gpus[2]
    assert back == healthy.gpus[2]


def test_a_gpu_that_hangs_from_the_start_does_not_hold_up_the_first_reading(
    sampler: Sampler, simulator: Simulator
) -> None:
    simulator.set(0, fault=Fault.hang(FOREVER))
    sampler.start()
    reading = reading_where(sampler, is_hung(0))
    assert reading.gpus[0].uuid is None, "it never told"
    assert all(gpu.health.ok for gpu in reading.gpus[1:])


def test_a_gpu_that_always_answers_too_late_never_counts_as_healthy_in_between(
    sampler: Sampler, simulator: Simulator
) -> None:
    sampler.start()
    reading_where(sampler, lambda reading: reading.gpus[1].health.ok)
    simulator.set(1, fault=Fault.hang(0.6, "nvmlDeviceGetPowerUsage"))
    first = reading_where(sampler, is_hung(1))
    while (reading := sampler.latest() or first).taken_at < first.taken_at + 2:  # some three answers, all late
        assert is_hung(1)(reading)
        assert reading.gpus[0].health.ok
        time.sleep(0.002)


def test_a_reading_is_never_waited_for_while_nvml_itself_hangs_at_its_start(
    sampler: Sampler, simulator: Simulator
) -> None:
    simulator.set_driver(Fault.hang(FOREVER))
    sampler.start()
    reading = reading_where(sampler, lambda reading: reading.health.state is HealthState.HUNG)
    assert reading.gpus == ()
    simulator.set_driver(NO_FAULT)
    assert len(reading_where(sampler, lambda reading: reading.health.ok).gpus) == 8


def test_a_driver_that_goes_and_comes_back_is_followed(sampler: Sampler, simulator: Simulator) -> None:
    sampler.start()
    uuids = [gpu.uuid for gpu in reading_where(sampler, lambda reading: reading.health.ok).gpus]
    simulator.set_driver(Fault.no_driver())
    reading = reading_where(sampler, lambda reading: reading.health.state is HealthState.DRIVER_NOT_LOADED)
    assert [gpu.uuid for gpu in reading.gpus] == uuids
    simulator.set_driver(NO_FAULT)
    back = reading_where(sampler, lambda reading: reading.health.ok and all(gpu.health.ok for gpu in reading.gpus))
    assert [gpu.uuid for gpu in back.gpus] == uuids


def test_a_lost_gpu_is_reported_with_its_uuid(sampler: Sampler, simulator: Simulator) -> None:
    sampler.start()
    reading_where(sampler, lambda reading: reading.gpus[7].health.ok)
    simulator.set(7, fault=Fault.lost())
    lost = reading_where(sampler, lambda reading: reading.gpus[7].health.state is HealthState.LOST).gpus[7]
    assert lost.uuid == simulator.gpus()[7].uuid


def test_nvml_is_initialised_once_over_many_readings_and_let_go_at_the_end(
    sampler: Sampler, simulator: Simulator
) -> None:
    sampler.start()
    first = reading_where(sampler, lambda reading: reading.health.ok)
    reading_where(sampler, lambda reading: reading.taken_at > first.taken_at + 1)
    calls = simulator.calls()
    assert calls["nvmlInitWithFlags"] == 1
    assert calls["nvmlDeviceGetUUID"] == 8
    assert calls["nvmlDeviceGetUtilizationRates"] >= 8 * 5
    sampler.stop()
    assert simulator.calls()["nvmlShutdown"] == 1


def test_stopping_leaves_no_thread_behind_and_does_not_wait_for_one_that_hangs(
    simulator: Simulator, simulator_library: Path
) -> None:
    def threads() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("NVML")}

    nvml = Nvml("here", library=simulator_library)
    sampler = Sampler(nvml, period=0.05, deadline=0.1)
    sampler.start()
    reading_where(sampler, lambda reading: reading.health.ok)
    simulator.set(6, fault=Fault.hang(FOREVER))
    reading_where(sampler, is_hung(6))
    start = time.monotonic()
    sampler.stop(timeout=0.5)
    assert time.monotonic() - start < 2
    assert threads() == {"NVML GPU 6"}
    simulator.set(6, fault=NO_FAULT)
    end = time.monotonic() + 5
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert threads() == set()
    nvml.close()  # one process has one NVML: leave none for the next test
