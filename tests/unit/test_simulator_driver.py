"""The state file: what Python writes is what NVML says, at once, whole, and to those who may see it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from idl_hub.gpus.nvml import Nvml
from idl_hub.gpus.simulator import Fault, SimulatedProcess, Simulator, StateError, layout

pytest_plugins = ["simulated_gpus"]

Visible = Callable[[str | None], list[str | None]]


@pytest.fixture
def visible(simulator_library: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Visible:
    """A function: which UUIDs NVML lists with this NVIDIA_VISIBLE_DEVICES."""

    def uuids(wish: str | None) -> list[str | None]:
        monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
        if wish is not None:
            monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", wish)
        nvml = Nvml("here", library=simulator_library)
        try:
            reading = nvml.read()
        finally:
            nvml.close()
        assert reading.health.ok
        assert [gpu.index for gpu in reading.gpus] == list(range(len(reading.gpus)))
        return [gpu.uuid for gpu in reading.gpus]

    return uuids


def test_uuids_look_like_nvidias_differ_and_stay(simulator: Simulator) -> None:
    uuids = [gpu.uuid for gpu in simulator.gpus()]
    assert len(set(uuids)) == 8
    assert all(len(uuid) == len("GPU-00000000-0000-0000-0000-000000000000") for uuid in uuids)
    assert all(uuid.startswith("GPU-") for uuid in uuids)
    simulator.create(2)
    assert [gpu.uuid for gpu in simulator.gpus()] == uuids[:2]
    simulator.create(10)
    assert [gpu.uuid for gpu in simulator.gpus()][:8] == uuids


def test_making_gpus_anew_keeps_the_file_that_containers_have_mounted(simulator: Simulator) -> None:
    before = simulator.path.stat()
    simulator.create(3)
    assert (simulator.path.stat().st_ino, simulator.path.stat().st_size) == (before.st_ino, before.st_size)


@pytest.mark.parametrize("wish", [None, "all"])
def test_without_a_wish_or_with_all_every_gpu_is_visible(
    visible: Visible, simulator: Simulator, wish: str | None
) -> None:
    assert visible(wish) == [gpu.uuid for gpu in simulator.gpus()]


@pytest.mark.parametrize("wish", ["none", "void", "", "GPU-of-somebody-else", "8"])
def test_none_void_and_unknown_gpus_make_none_visible(visible: Visible, wish: str) -> None:
    assert visible(wish) == []


def test_a_container_sees_exactly_its_gpu_counted_from_zero(visible: Visible, simulator: Simulator) -> None:
    uuids = [gpu.uuid for gpu in simulator.gpus()]
    assert visible(uuids[5]) == [uuids[5]]
    assert visible("5") == [uuids[5]]
    assert visible(f"{uuids[6]},{uuids[2]}") == [uuids[6], uuids[2]]
    assert visible("3,3") == [uuids[3]]


def test_writers_in_several_processes_lose_nothing_of_each_other(simulator: Simulator) -> None:
    write = (
        "import sys\nfrom pathlib import Path\nfrom idl_hub.gpus.simulator import Simulator\n"
        "simulator, index = Simulator(Path(sys.argv[1])), int(sys.argv[2])\n"
        "for celsius in range(101):\n"
        "    simulator.set(index, temperature_celsius=celsius)\n"
        "    assert simulator.gpus()[index].temperature_celsius == celsius\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    writers = [
        subprocess.Popen([sys.executable, "-c", write, simulator.path, str(index)], env=environment)
        for index in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert [gpu.temperature_celsius for gpu in simulator.gpus()] == [100] * 4 + [31] * 4


def test_a_writer_that_died_halfway_stops_nobody(simulator: Simulator, simulator_library: Path) -> None:
    with simulator.path.open("r+b") as file:
        file.seek(layout.StateRecord.sequence.offset)
        file.write((7).to_bytes(4, "little"))
    nvml = Nvml("here", library=simulator_library)
    assert len(nvml.read().gpus) == 8
    simulator.set(0, temperature_celsius=55)
    assert nvml.read().gpus[0].temperature_celsius == 55
    assert layout.StateRecord.from_buffer_copy(simulator.path.read_bytes()).sequence == 8
    nvml.close()


def test_any_nvml_error_can_be_had_for_one_gpu(simulator: Simulator, simulator_library: Path) -> None:
    nvml = Nvml("here", library=simulator_library)
    codes = [code for code in range(1, 31) if code not in {1, 3, 4, 9, 13, 18, 25}]  # those mean something else
    for code in codes:
        simulator.set(3, fault=Fault.error(code))
        reading = nvml.read()
        assert reading.gpus[3].health.nvml_code == code
        assert [gpu.index for gpu in reading.gpus if not gpu.health.ok] == [3]
    nvml.close()


def test_calls_before_the_start_and_with_foreign_handles_are_refused(
    simulator: Simulator, simulator_library: Path
) -> None:
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    nvml = Nvml("here", library=simulator_library)
    nvml.read()
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetHandleByIndex(8)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetName(pynvml.c_nvmlDevice_t())
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-of-somebody-else")
    uuid = simulator.gpus()[4].uuid
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid)) == 4
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByPciBusId("0000:0a:00.0")) == 6
    nvml.close()


@pytest.mark.parametrize(
    "function", ["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMigMode", "nvmlDeviceGetEccMode"]
)
def test_what_a_gtx_1080_ti_does_not_have_is_not_supported_unless_it_is_lost(
    simulator: Simulator, simulator_library: Path, function: str
) -> None:
    nvml = Nvml("here", library=simulator_library)
    nvml.read()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        getattr(pynvml, function)(handle)
    simulator.set(0, fault=Fault.lost())
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        getattr(pynvml, function)(handle)
    nvml.close()


def test_a_reset_makes_idle_and_sound_and_keeps_the_uuid(simulator: Simulator) -> None:
    before = simulator.gpus()
    for index in (1, 2):
        simulator.set(
            index, utilization_ratio=1, temperature_celsius=90, power_watts=250, fault=Fault.hang(5),
            processes=[SimulatedProcess(1, 2**30)],
        )  # fmt: skip
    simulator.reset(1)
    assert simulator.gpus()[1] == before[1]
    assert simulator.gpus()[2] != before[2]
    simulator.reset()
    assert simulator.gpus() == before


def test_a_file_that_is_something_else_is_never_overwritten(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("All of it.")
    with pytest.raises(StateError, match="holds something else"):
        Simulator(precious).create(8)
    with pytest.raises(StateError, match="not a state file"):
        Simulator(precious).gpus()
    assert precious.read_text() == "All of it."


def test_impossible_values_are_refused_and_change_nothing(simulator: Simulator) -> None:
    before = simulator.gpus()
    for change in (
        {"utilization_ratio": 80},
        {"memory_used_bytes": 12 * 2**30},
        {"temperature_celsius": -1},
        {"power_watts": float("nan")},
        {"processes": [SimulatedProcess(1)] * 33},
        {"processes": [SimulatedProcess(0)]},
        {"fault": Fault.error(-1)},
    ):
        with pytest.raises(StateError, match="allowed is"):
            simulator.set(0, temperature_celsius=change.pop("temperature_celsius", 60), **change)
    with pytest.raises(StateError, match="no GPU 8"):
        simulator.set(8, utilization_ratio=0)
    with pytest.raises(StateError, match="0 to 64"):
        simulator.create(65)
    assert simulator.gpus() == before
