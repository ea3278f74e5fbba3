"""From a process on the GPU to the notebook it belongs to."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idl_hub.gpus.reading import GPU, HEALTHY, Process, ServerReading
from idl_hub.lab.holders import Kernel, command, find_uses, hold, parent, processes_with_open
from idl_hub.lab.session import Use

GIB = 2**30
TRAIN = Kernel("k1", 100, "course/train.ipynb", "busy")
PLAY = Kernel("k2", 200, "play.ipynb", "idle")
PARENTS = {101: 100, 102: 101, 200: 1, 300: 1, 1: 0}


def held(*uses: Use, kernels: tuple[Kernel, ...] = (TRAIN, PLAY)) -> list[tuple[str, int | None, str | None]]:
    found = hold(uses, kernels, parent=PARENTS.get, command={300: "python"}.get)  # type: ignore[arg-type]
    return [(holder.name, holder.memory_used_bytes, holder.kernel_id) for holder in found]


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python that prints a line when it is ready and ends with its input."""
    command = [sys.executable, "-c", f"{code}\nprint('ready', flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate("\n", timeout=10)


def test_the_biggest_holder_comes_first_and_a_kernel_s_children_count_as_the_kernel() -> None:
    uses = [Use(200, GIB), Use(101, 2 * GIB), Use(102, 3 * GIB)]
    assert held(*uses) == [("train.ipynb", 5 * GIB, "k1"), ("play.ipynb", GIB, "k2")]


def test_a_process_of_no_kernel_is_shown_by_its_program_and_cannot_be_shut_down() -> None:
    assert held(Use(300, GIB), Use(999, None)) == [
        ("python (process 300)", GIB, None),
        ("a program (process 999)", None, None),
    ]


def test_parents_that_lead_in_a_circle_end_the_search() -> None:
    assert hold([Use(5)], [TRAIN], parent={5: 6, 6: 5}.get, command=str)[0].kernel_id is None


def test_real_processes_have_their_real_parent_and_program() -> None:
    with child("") as process:
        assert parent(process.pid) == os.getpid()
        assert command(process.pid).startswith("python")
    assert parent(process.pid) is None
    assert command(process.pid) == ""


def test_what_the_agent_translated_is_believed_before_all_else() -> None:
    assert find_uses([Use(7, GIB)], None) == (Use(7, GIB),)


def test_simulated_processes_count_when_they_run_here() -> None:
    gone = 2**22 + 1  # beyond the kernel's largest PID
    gpu = GPU("GPU-a", 0, HEALTHY, processes=(Process(os.getpid(), GIB), Process(gone, GIB)))
    reading = ServerReading("here", 0.0, HEALTHY, (gpu,), simulated=True)
    assert find_uses(None, reading) == (Use(os.getpid(), GIB),)


def test_processes_that_have_the_device_open_are_found_and_this_one_is_not_among_them(tmp_path: Path) -> None:
    device = tmp_path / "nvidia-uvm"
    device.touch()
    with device.open(), child(f"device = open({str(device)!r})") as process, child(""):
        assert processes_with_open(str(device)) == [process.pid]
