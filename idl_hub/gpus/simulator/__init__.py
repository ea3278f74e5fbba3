"""Simulated GPUs for machines without one: a stand-in ``libnvidia-ml.so.1`` and its driver.

`build` compiles the library; `Simulator` writes the state file from which every program that loads
the library reads its GPUs, at once and while it runs.
"""

from idl_hub.gpus.simulator.driver import NO_FAULT, Fault, SimulatedGPU, SimulatedProcess, Simulator, StateError
from idl_hub.gpus.simulator.library import BuildError, build

__all__ = [
    "NO_FAULT",
    "BuildError",
    "Fault",
    "SimulatedGPU",
    "SimulatedProcess",
    "Simulator",
    "StateError",
    "build",
]
