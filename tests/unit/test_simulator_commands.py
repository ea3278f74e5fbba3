"""`idl-hub simulate`: what an admin types and sees."""

import ctypes
from pathlib import Path

import pytest

from idl_hub.cli import main
from idl_hub.gpus.simulator import NO_FAULT, Fault, SimulatedProcess, Simulator

GIB = 2**30


@pytest.fixture
def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IDLHUB_SIMULATOR_STATE", str(tmp_path / "gpus.state"))
    simulated = Simulator(tmp_path / "gpus.state")
    simulated.create(4)
    return simulated


def simulate(*words: str) -> int:
    try:
        return main(["simulate", *words])
    except SystemExit as end:  # what argparse does
        return int(end.code or 0)


def test_load_is_put_on_a_gpu_with_one_command(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("gpu", "3", "--utilization", "80", "--memory-used", "9GiB", "--process", "4711") == 0
    gpu = simulator.gpus()[3]
    assert (gpu.utilization_ratio, gpu.memory_used_bytes) == (0.8, 9 * GIB)
    assert gpu.processes == (SimulatedProcess(4711, 9 * GIB),)
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("GPU 3", gpu.uuid, "80%", "9216 of 11264 MiB", "processes 4711"))


def test_processes_share_the_memory_that_is_left_and_go_away_again(simulator: Simulator) -> None:
    simulate("gpu", "0", "--memory-used", "10GiB", "--process", "1:4GiB", "--process", "2", "--process", "3")
    assert [process.memory_used_bytes for process in simulator.gpus()[0].processes] == [4 * GIB, 3 * GIB, 3 * GIB]
    simulate("gpu", "0", "--process", "7:2GiB")
    assert simulator.gpus()[0].memory_used_bytes == 2 * GIB
    simulate("gpu", "0", "--utilization", "5")
    assert [process.pid for process in simulator.gpus()[0].processes] == [7]
    simulate("gpu", "0", "--no-process")
    assert (simulator.gpus()[0].processes, simulator.gpus()[0].memory_used_bytes) == ((), 0)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("lost", Fault.lost()),
        ("hang:2.5", Fault.hang(2.5)),
        ("error:999", Fault.error(999)),
        ("error:999:nvmlDeviceGetTemperature", Fault.error(999, "nvmlDeviceGetTemperature")),
    ],
)
def test_a_fault_is_made_shown_and_taken_away(
    simulator: Simulator, capsys: pytest.CaptureFixture[str], words: str, fault: Fault
) -> None:
    assert simulate("gpu", "2", "--fault", words) == 0
    assert simulator.gpus()[2].fault == fault
    assert "fault: " in capsys.readouterr().out
    simulate("gpu", "2", "--fault", "none")
    assert simulator.gpus()[2].fault == NO_FAULT


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gpu", "4"], "no GPU 4"),
        (["gpu", "x"], "invalid int"),
        (["gpu", "0", "--utilization", "101"], "0 to 100"),
        (["gpu", "0", "--memory-used", "9 apples"], "9GiB"),
        (["gpu", "0", "--memory-used", "12GiB"], "allowed is 0 to the GPU's memory"),
        (["gpu", "0", "--process", "-5"], "--process"),
        (["gpu", "0", "--process", "0"], "PID"),
        (["gpu", "0", "--fault", "broken"], "lost, hang:SECONDS"),
        (["gpu", "0", "--fault", "hang:long"], "lost, hang:SECONDS"),
        (["gpu", "0", "--fault", "hang:-1"], "allowed is 0 to"),
        (["gpu", "0", "--xid", "0"], "allowed is 1 to"),
        (["gpu", "0", "--xid", "lost"], "invalid int"),
        (["driver", "lost"], "not-loaded"),
        (["create", "65"], "0 to 64"),
        (["show", "--state", "missing"], "missing does not exist"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(
    simulator: Simulator, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    before = simulator.gpus()
    assert simulate(*words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert simulator.gpus() == before


def test_without_a_variable_the_state_below_the_working_directory_serves(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("IDLHUB_SIMULATOR_STATE")
    assert simulate("show") == 2
    assert "idl-hub simulate create" in capsys.readouterr().err
    assert simulate("create", "2") == 0
    capsys.readouterr()
    assert simulate("show") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert Path(".state/simulator/gpus.state").is_file()


def test_the_driver_can_be_unloaded_and_loaded(simulator: Simulator) -> None:
    from idl_hub.gpus.simulator import layout

    assert simulate("driver", "not-loaded") == 0
    state = layout.StateRecord.from_buffer_copy(simulator.path.read_bytes())
    assert state.driver_fault.code == 9
    assert simulate("driver", "none") == 0
    assert layout.StateRecord.from_buffer_copy(simulator.path.read_bytes()).driver_fault.code == 0


def test_the_library_is_built_where_asked(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate("build", str(tmp_path / "lib")) == 0
    library = Path(capsys.readouterr().out.strip())
    assert library == tmp_path / "lib" / "libnvidia-ml.so.1"
    assert ctypes.CDLL(str(library)).idlhub_simulator_version


def test_a_library_that_cannot_be_built_is_a_failure_with_the_remedy(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert simulate("build", str(tmp_path / "lib")) == 1
    assert "apt install gcc" in capsys.readouterr().err
