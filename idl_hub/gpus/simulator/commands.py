"""``idl-hub simulate``: make simulated GPUs and change what they show, while programs run."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from idl_hub.gpus.simulator.driver import NO_FAULT, Fault, SimulatedGPU, SimulatedProcess, Simulator, StateError
from idl_hub.gpus.simulator.library import BuildError, build

if TYPE_CHECKING:
    from collections.abc import Callable

STATE_VARIABLE = "IDLHUB_SIMULATOR_STATE"
DEFAULT_STATE = Path(".state/simulator/gpus.state")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[KMG]iB)?", re.IGNORECASE)
_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class _Parser(argparse.ArgumentParser):
    """Answers a wrong call with one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help tells what is possible)\n")


def add_commands(subparsers: Any) -> None:
    """Add the command ``simulate`` with its verbs."""
    parser = subparsers.add_parser("simulate", help="make simulated GPUs and change what they show")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    create = _add_verb(verbs, "create", _create, "make so many idle GPUs; those that exist keep their UUIDs")
    create.add_argument("count", nargs="?", type=int, default=8, help="how many (8)")

    gpu = _add_verb(verbs, "gpu", _change, "change one GPU; what is not named stays")
    gpu.add_argument("index", type=int, help="its number, from 0")
    gpu.add_argument("--utilization", type=_percent, metavar="PERCENT", help="0 to 100")
    gpu.add_argument("--memory-used", type=_bytes, metavar="SIZE", help="such as 9GiB, 512MiB or 0")
    gpu.add_argument("--temperature", type=int, metavar="CELSIUS")
    gpu.add_argument("--power", type=float, metavar="WATTS")
    gpu.add_argument(
        "--process",
        action="append",
        type=_process,
        metavar="PID[:SIZE]",
        help="a process on the GPU, which need not exist; may be given again, and replaces those there were",
    )
    gpu.add_argument("--no-process", action="store_true", help="take all processes off the GPU")
    gpu.add_argument(
        "--fault",
        type=_fault,
        metavar="FAULT",
        help="lost, hang:SECONDS (each call), error:CODE (NVML's number), error:CODE:FUNCTION, or none",
    )
    gpu.add_argument(
        "--xid", type=int, action="append", default=[], metavar="CODE", help="have the driver report this error of it"
    )
    gpu.add_argument("--reset", action="store_true", help="make it idle and sound first")

    driver = _add_verb(verbs, "driver", _change_driver, "change how NVML as a whole answers")
    driver.add_argument("fault", type=_driver_fault, help="not-loaded, hang:SECONDS, error:CODE, or none")

    _add_verb(verbs, "show", _show, "list the GPUs")

    library = verbs.add_parser("build", help="compile the stand-in libnvidia-ml.so.1 into a directory")
    library.add_argument("directory", type=Path)
    library.set_defaults(run=_build)


def _add_verb(
    verbs: Any, name: str, act: Callable[[Simulator, argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--state", type=Path, help=f"state file (${STATE_VARIABLE}, else {DEFAULT_STATE})")
    parser.set_defaults(run=_on_state, act=act)
    return parser


def _on_state(arguments: argparse.Namespace) -> int:
    """Do the verb on the state file that is meant; a wrong wish is one line and status 2."""
    try:
        arguments.act(Simulator(_state_path(arguments)), arguments)
    except StateError as error:
        print(f"idl-hub simulate: {error}", file=sys.stderr)
        return 2
    return 0


def _state_path(arguments: argparse.Namespace) -> Path:
    if arguments.state is not None:
        return Path(arguments.state)
    if os.environ.get(STATE_VARIABLE):
        return Path(os.environ[STATE_VARIABLE])
    if DEFAULT_STATE.exists() or arguments.act is _create:
        return DEFAULT_STATE
    raise StateError(
        f"No state file: name it with --state or {STATE_VARIABLE}, or make {DEFAULT_STATE} with "
        "`idl-hub simulate create`."
    )


def _create(simulator: Simulator, arguments: argparse.Namespace) -> None:
    simulator.create(arguments.count)
    print(f"{arguments.count} simulated GPUs in {simulator.path}")


def _change(simulator: Simulator, arguments: argparse.Namespace) -> None:
    if arguments.reset:
        simulator.reset(arguments.index)
    simulator.set(
        arguments.index,
        utilization_ratio=arguments.utilization,
        memory_used_bytes=arguments.memory_used,
        temperature_celsius=arguments.temperature,
        power_watts=arguments.power,
        processes=_processes(arguments),
        fault=arguments.fault,
    )
    for code in arguments.xid:
        simulator.report_xid(arguments.index, code)
    print(_line(simulator.gpus()[arguments.index]))


def _processes(arguments: argparse.Namespace) -> list[SimulatedProcess] | None:
    """Return the processes; those without a size share the memory in use that is left."""
    given: list[SimulatedProcess] = [] if arguments.no_process else arguments.process
    if not given or arguments.memory_used is None:
        return given
    unsized = sum(process.memory_used_bytes is None for process in given)
    left = max(0, arguments.memory_used - sum(process.memory_used_bytes or 0 for process in given))
    return [p if p.memory_used_bytes is not None else SimulatedProcess(p.pid, left // unsized) for p in given]


def _change_driver(simulator: Simulator, arguments: argparse.Namespace) -> None:
    simulator.set_driver(arguments.fault)


def _show(simulator: Simulator, _arguments: argparse.Namespace) -> None:
    for gpu in simulator.gpus():
        print(_line(gpu))


def _build(arguments: argparse.Namespace) -> int:
    try:
        print(build(arguments.directory))
    except BuildError as error:
        print(f"idl-hub simulate: {error}", file=sys.stderr)
        return 1
    return 0


def _line(gpu: SimulatedGPU) -> str:
    parts = [
        f"GPU {gpu.index}  {gpu.uuid}  {gpu.name}",
        f"{gpu.utilization_ratio:.0%}",
        f"{gpu.memory_used_bytes / 2**20:.0f} of {gpu.memory_total_bytes / 2**20:.0f} MiB",
        f"{gpu.temperature_celsius} °C",
        f"{gpu.power_watts:.0f} W",
    ]
    if gpu.processes:
        parts.append("processes " + ", ".join(str(process.pid) for process in gpu.processes))
    if gpu.fault != NO_FAULT:
        parts.append(f"fault: {_fault_in_words(gpu.fault)}")
    return "  ".join(parts)


def _fault_in_words(fault: Fault) -> str:
    words = [f"calls take {fault.hang_seconds:g} s"] if fault.hang_seconds else []
    if fault.code:
        words.append("lost" if fault == Fault.lost() else f"NVML error {fault.code}")
    return ", ".join(words) + (f" in {fault.function}" if fault.function else "")


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1
    if not 0 <= percent <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 100 percent")
    return percent / 100


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 9GiB, 512MiB or 0")
    return int(float(found[1]) * _UNITS[(found[2] or "B").lower()])


def _process(text: str) -> SimulatedProcess:
    pid, _, size = text.partition(":")
    if not pid.isdecimal() or not pid.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is not a process such as 4711 or 4711:9GiB")
    return SimulatedProcess(int(pid), _bytes(size) if size else None)


def _fault(text: str) -> Fault:
    if text == "lost":
        return Fault.lost()
    return _common_fault(text, "lost, hang:SECONDS, error:CODE, error:CODE:FUNCTION or none")


def _driver_fault(text: str) -> Fault:
    if text == "not-loaded":
        return Fault.no_driver()
    return _common_fault(text, "not-loaded, hang:SECONDS, error:CODE or none")


def _common_fault(text: str, allowed: str) -> Fault:
    kind, _, rest = text.partition(":")
    number, _, function = rest.partition(":")
    try:
        if text == "none":
            return NO_FAULT
        if kind == "hang":
            return Fault.hang(float(number), function)
        if kind == "error":
            return Fault.error(int(number), function)
    except ValueError:
        pass  # not a number: said below
    raise argparse.ArgumentTypeError(f"{text!r} is none of: {allowed}")
