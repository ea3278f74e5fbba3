"""Real GPUs where there is an NVIDIA driver, else the simulator's library."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from script.lib.commands import CommandFailedError, ask, explain, run
from script.lib.console import SetupError, Step
from script.lib.privileges import install_packages

if TYPE_CHECKING:
    from script.lib.places import Places

_BUILD = """
import json, sys
from pathlib import Path
from idl_hub.gpus import simulator
print(json.dumps(str(simulator.build(Path(sys.argv[1])))))
"""
_CREATE = """
import sys
from pathlib import Path
from idl_hub.gpus import simulator
simulator.Simulator(Path(sys.argv[1])).create(int(sys.argv[2]))
"""


def driver_is_present() -> bool:
    """Return whether an NVIDIA driver answers on this machine."""
    if not Path("/dev/nvidiactl").exists():
        return False
    try:
        return int(ctypes.CDLL("libnvidia-ml.so.1").nvmlInit_v2()) == 0
    except (OSError, AttributeError):
        return False


def require_cards_in_containers() -> None:
    """Check that the engine can hand the real cards to containers.

    Raises
    ------
    SetupError
        When NVIDIA's container toolkit is missing.
    """
    told = ask(["docker", "info", "--format", "{{json .Runtimes}}"])
    registered = told is not None and told.returncode == 0 and "nvidia" in json.loads(told.stdout)
    if not registered and shutil.which("nvidia-container-runtime-hook") is None:
        raise SetupError(
            "This machine has an NVIDIA driver, but its Docker engine cannot hand cards to containers.",
            "Install NVIDIA's container toolkit (package nvidia-container-toolkit), run "
            "`sudo nvidia-ctk runtime configure --runtime=docker`, restart Docker, and run this again.",
        )


def ensure_simulator(step: Step, places: Places) -> Path:
    """Compile the stand-in libnvidia-ml.so.1 unless its sources are unchanged; return the library.

    Raises
    ------
    SetupError
        When there is no C compiler and none can be installed, or it fails.
    """
    log = places.setup_logs / "simulator.log"
    if shutil.which("cc") is None:
        step.say("installing a C compiler with apt")
        install_packages(step, ["gcc", "libc6-dev"], log)
    python = str(places.venv / "bin" / "python")
    places.simulator.mkdir(exist_ok=True)
    try:
        last = run(step, [python, "-c", _BUILD, str(places.simulator)], log, deadline_seconds=300)
    except CommandFailedError as failure:
        raise explain(
            "The simulated GPUs' library could not be compiled", failure, log, "Check the C compiler (cc)."
        ) from failure
    return Path(json.loads(last.splitlines()[-1]))


def create_simulated_cards(step: Step, places: Places, state: Path, count: int) -> None:
    """Make the simulated cards unless exactly so many are there: containers have their state mapped."""
    made = state.with_name(f"{state.name}.count")
    if state.exists() and made.exists() and made.read_text() == str(count):
        return
    python = str(places.venv / "bin" / "python")
    log = places.setup_logs / "simulator.log"
    try:
        run(step, [python, "-c", _CREATE, str(state), str(count)], log, deadline_seconds=60)
    except CommandFailedError as failure:
        raise explain(
            "The simulated GPUs could not be made", failure, log, f"Remove {state} and run this again."
        ) from failure
    made.write_text(str(count))
