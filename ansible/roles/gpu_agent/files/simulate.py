"""Puts the stand-in for NVIDIA's library and the state of simulated GPUs into place; runs in the agent's image.

Given: where the library goes, where the state is, and how many GPUs there are. Prints what it changed.
"""

from __future__ import annotations

import filecmp
import shutil
import sys
from pathlib import Path

from idl_hub.gpus.simulator import Simulator

IN_IMAGE = Path("/opt/idl_hub/simulator/libnvidia-ml.so.1")


def place_library(library: Path) -> None:
    """Bring the library up to date; programs that run keep the file that they have loaded."""
    if library.exists() and filecmp.cmp(IN_IMAGE, library, shallow=False):
        return
    arriving = library.with_name(f".{library.name}-arriving")
    shutil.copyfile(IN_IMAGE, arriving)
    arriving.chmod(0o755)
    arriving.replace(library)
    print(f"library {library.name}")


def make_gpus(state: Path, count: int) -> None:
    """Make so many GPUs, unless there are."""
    simulator = Simulator(state)
    if state.exists() and len(simulator.gpus()) == count:
        return
    simulator.create(count)
    print(f"{count} GPUs")


place_library(Path(sys.argv[1]))
make_gpus(Path(sys.argv[2]), int(sys.argv[3]))
