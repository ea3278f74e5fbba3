"""Writes and reads the state file: what the simulated GPUs are, have and suffer."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from idl_hub.gpus.simulator import layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GPU_IS_LOST = 15
DRIVER_NOT_LOADED = 9
_MIB = 2**20


class StateError(Exception):
    """The state file is missing, not one, or cannot hold what was asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What NVML calls suffer: first they hang, then they answer with an error."""

    code: int = 0
    """NVML's error number (``nvmlReturn_t``); 0: no error."""
    hang_seconds: float = 0.0
    """How long each call takes; hanging calls go on as soon as the fault is taken away."""
    function: str = ""
    """The one NVML function that is affected, such as ``nvmlDeviceGetTemperature``; empty: all."""

    @classmethod
    def lost(cls) -> Fault:
        """Return what a GPU that fell off the bus answers."""
        return cls(code=GPU_IS_LOST)

    @classmethod
    def no_driver(cls) -> Fault:
        """Return what NVML answers, as a fault of the driver, when the driver is not loaded."""
        return cls(code=DRIVER_NOT_LOADED)

    @classmethod
    def hang(cls, seconds: float, function: str = "") -> Fault:
        """Return a fault that delays each call."""
        return cls(hang_seconds=seconds, function=function)

    @classmethod
    def error(cls, code: int, function: str = "") -> Fault:
        """Return a fault that answers with this NVML error."""
        return cls(code=code, function=function)


NO_FAULT = Fault()


@dataclass(frozen=True, slots=True)
class SimulatedProcess:
    """A process on a simulated GPU; it need not exist."""

    pid: int
    memory_used_bytes: int | None = None
    """None: NVML does not tell."""
    graphics: bool = False
    """Whether it draws (an X server) in place of computing."""


@dataclass(frozen=True, slots=True)
class SimulatedGPU:
    """One GPU as the state file has it."""

    index: int
    uuid: str
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilization_ratio: float
    temperature_celsius: int
    power_watts: float
    processes: tuple[SimulatedProcess, ...]
    fault: Fault


class Simulator:
    """The simulated GPUs of one state file.

    Programs see every change at once. Several processes may write; each change is seen whole.

    Parameters
    ----------
    path
        The state file. Beside it, ``PATH.calls`` counts the calls of each NVML function, and
        ``PATH.xids`` holds the XIDs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls_path = path.with_name(path.name + ".calls")
        self.xids_path = path.with_name(path.name + ".xids")

    def create(
        self,
        count: int = 8,
        *,
        name: str = "NVIDIA GeForce GTX 1080 Ti",
        memory_total_bytes: int = 11264 * _MIB,
        driver_version: str = "580.95.05",
    ) -> None:
        """Make so many idle GPUs. A GPU that the file has already keeps its UUID.

        Raises
        ------
        StateError
            The number is not 0 to 64, or the path cannot be written or holds something else.
        """
        if not 0 <= count <= layout.MAX_GPUS:
            raise StateError(f"{count} GPUs cannot be simulated; 0 to {layout.MAX_GPUS} can.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _make_file(self.path, ctypes.sizeof(layout.StateRecord), layout.MAGIC)
            _make_file(self.calls_path, ctypes.sizeof(layout.CallsRecord))
            _make_file(self.xids_path, ctypes.sizeof(layout.XidsRecord))
        except OSError as error:
            raise StateError(f"{self.path} cannot be written: {error.strerror}.") from error
        with self._changing(new=True) as state:
            state.version = layout.VERSION
            state.gpu_count = count
            state.driver_version = driver_version.encode()
            state.driver_fault = layout.FaultRecord()
            for index in range(count):
                gpu = state.gpus[index]
                gpu.uuid = gpu.uuid or f"GPU-{uuid.uuid4()}".encode()
                gpu.name = name.encode()
                gpu.pci_bus = 4 + index
                gpu.memory_total_bytes = memory_total_bytes
                _make_idle(gpu)

    def gpus(self) -> tuple[SimulatedGPU, ...]:
        """Return all GPUs as they are now."""
        state = self._read()
        return tuple(_gpu(index, state.gpus[index]) for index in range(state.gpu_count))

    def set(
        self,
        index: int,
        *,
        utilization_ratio: float | None = None,
        memory_used_bytes: int | None = None,
        temperature_celsius: int | None = None,
        power_watts: float | None = None,
        processes: Sequence[SimulatedProcess] | None = None,
        fault: Fault | None = None,
    ) -> None:
        """Change what is given of one GPU, all at once; None leaves a value as it is.

        With processes and without memory, the memory in use becomes what the processes use.

        Raises
        ------
        StateError
            No such GPU, a value out of range, or no usable state file.
        """
        if processes is not None and memory_used_bytes is None:
            memory_used_bytes = sum(process.memory_used_bytes or 0 for process in processes)
        with self._changing() as state:
            gpu = _record(state, index)
            if memory_used_bytes is not None:
                _require(0 <= memory_used_bytes <= gpu.memory_total_bytes, "memory in use", "0 to the GPU's memory")
                gpu.memory_used_bytes = memory_used_bytes
            if utilization_ratio is not None:
                _require(0 <= utilization_ratio <= 1, "utilization", "0 to 1")
                gpu.utilization_percent = round(utilization_ratio * 100)
            if temperature_celsius is not None:
                _require(0 <= temperature_celsius <= 200, "temperature", "0 to 200 °C")
                gpu.temperature_celsius = temperature_celsius
            if power_watts is not None:
                _require(0 <= power_watts <= 1000, "power", "0 to 1000 W")
                gpu.power_milliwatts = round(power_watts * 1000)
            if processes is not None:
                _put_processes(gpu, processes)
            if fault is not None:
                gpu.fault = _fault_record(fault)

    def report_xid(self, index: int, code: int) -> None:
        """Have the driver report this error of a GPU, to programs that wait for such events.

        Raises
        ------
        StateError
            No such GPU, no XID, or no usable state file.
        """
        _require(0 < code < 2**32, "XID", "1 to 4294967295")
        with self._opened(os.O_RDONLY) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # one writer at a time
            _record(self._checked(os.pread(file, ctypes.sizeof(layout.StateRecord), 0)), index)
            try:
                self._append_xid(index, code)
            except OSError as error:
                raise StateError(
                    f"{self.xids_path} cannot be written: {error.strerror}; `idl-hub simulate create` makes it."
                ) from error

    def _append_xid(self, index: int, code: int) -> None:
        with self.xids_path.open("r+b") as file, mmap.mmap(file.fileno(), ctypes.sizeof(layout.XidsRecord)) as mapped:
            ring = layout.XidsRecord.from_buffer(mapped).gpus[index]
            ring.codes[ring.count % layout.XIDS_KEPT] = code
            ring.count += 1  # last: it tells readers that the code is there
            del ring  # else the file could not be unmapped

    def set_driver(self, fault: Fault) -> None:
        """Change what all NVML calls of all programs suffer: `Fault.no_driver()`, a hang, or `NO_FAULT`."""
        with self._changing() as state:
            state.driver_fault = _fault_record(fault)

    def reset(self, index: int | None = None) -> None:
        """Make one GPU, or all and the driver, idle and free of faults."""
        with self._changing() as state:
            if index is None:
                state.driver_fault = layout.FaultRecord()
            for number in range(state.gpu_count) if index is None else (index,):
                _make_idle(_record(state, number))

    def calls(self) -> dict[str, int]:
        """Return how often each NVML function was called by programs that may write the file of counts."""
        try:
            content = self.calls_path.read_bytes()
        except OSError as error:
            raise StateError(f"{self.calls_path} cannot be read: {error.strerror}.") from error
        functions = layout.CallsRecord.from_buffer_copy(content).functions
        return {count.function.decode(): count.calls for count in functions if count.calls}

    def environment(self, library: Path) -> dict[str, str]:
        """Return the variables with which a program finds these GPUs and the library that `build` returned."""
        return {"LD_LIBRARY_PATH": str(library.parent), "IDLHUB_SIMULATOR_STATE": str(self.path.absolute())}

    def _read(self) -> layout.StateRecord:
        with self._opened(os.O_RDONLY) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return self._checked(os.pread(file, ctypes.sizeof(layout.StateRecord), 0))

    @contextlib.contextmanager
    def _changing(self, *, new: bool = False) -> Iterator[layout.StateRecord]:
        """Give a copy to change, and write it back when all went well."""
        size = ctypes.sizeof(layout.StateRecord)
        with self._opened(os.O_RDWR) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            content = os.pread(file, size, 0)
            state = layout.StateRecord.from_buffer_copy(content) if new else self._checked(content)
            yield state
            with mmap.mmap(file, size) as mapped:
                _write_whole(mapped, state)

    @contextlib.contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        try:
            file = os.open(self.path, flags | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StateError(f"{self.path} does not exist; make it with `idl-hub simulate create 8`.") from error
        except OSError as error:
            raise StateError(f"{self.path} cannot be opened: {error.strerror}.") from error
        try:
            yield file
        finally:
            os.close(file)

    def _checked(self, content: bytes) -> layout.StateRecord:
        if len(content) < ctypes.sizeof(layout.StateRecord) or not content.startswith(layout.MAGIC):
            raise StateError(f"{self.path} is not a state file of simulated GPUs; name another with --state.")
        state = layout.StateRecord.from_buffer_copy(content)
        if state.version != layout.VERSION:
            raise StateError(
                f"{self.path} has layout {state.version}, this program knows {layout.VERSION}; "
                "remove it and make it anew with `idl-hub simulate create`."
            )
        return state


def _make_file(path: Path, size: int, magic: bytes = b"") -> None:
    """Make a file of zeros unless it is there; it appears in one piece. An old one keeps its inode."""
    if path.exists():
        with path.open("rb") as file:
            found = file.read(len(magic))
        if found != magic or path.stat().st_size != size:
            raise StateError(f"{path} holds something else; remove it, or name another state file.")
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-") as scratch:
        scratch.write(magic)
        scratch.truncate(size)
        scratch.flush()
        Path(scratch.name).chmod(0o644)  # containers read it as another user
        with contextlib.suppress(FileExistsError):  # another process was as quick
            os.link(scratch.name, path)


def _write_whole(mapped: mmap.mmap, state: layout.StateRecord) -> None:
    """Write the state so that readers notice that it is changing (see state.h)."""
    at = layout.StateRecord.sequence.offset
    odd = state.sequence | 1  # a writer that died halfway left it odd
    mapped[at : at + 4] = odd.to_bytes(4, "little")
    state.sequence = odd
    mapped[:] = bytes(state)
    mapped[at : at + 4] = ((odd + 1) % 2**32).to_bytes(4, "little")


def _record(state: layout.StateRecord, index: int) -> layout.GPURecord:
    if not 0 <= index < state.gpu_count:
        raise StateError(f"There is no GPU {index}; the state file has {state.gpu_count}, counted from 0.")
    record: layout.GPURecord = state.gpus[index]
    return record


def _require(condition: bool, what: str, allowed: str) -> None:
    if not condition:
        raise StateError(f"That {what} is not possible; allowed is {allowed}.")


def _make_idle(gpu: layout.GPURecord) -> None:
    """Set what an idle GTX 1080 Ti shows under driver 580."""
    gpu.fan_percent = 23
    gpu.memory_reserved_bytes = 91 * _MIB
    gpu.memory_used_bytes = 1 * _MIB
    gpu.utilization_percent = 0
    gpu.memory_utilization_percent = 0
    gpu.temperature_celsius = 31
    gpu.power_milliwatts = 9_000
    gpu.power_limit_milliwatts = 250_000
    gpu.fault = layout.FaultRecord()
    gpu.process_count = 0


def _put_processes(gpu: layout.GPURecord, processes: Sequence[SimulatedProcess]) -> None:
    _require(len(processes) <= layout.MAX_PROCESSES, "number of processes", f"0 to {layout.MAX_PROCESSES}")
    gpu.process_count = len(processes)
    for number, process in enumerate(processes):
        _require(0 < process.pid < 2**32, "PID", "1 to 4294967295")
        used = layout.MEMORY_NOT_AVAILABLE if process.memory_used_bytes is None else process.memory_used_bytes
        kind = layout.GRAPHICS if process.graphics else layout.COMPUTE
        gpu.processes[number] = layout.ProcessRecord(process.pid, kind, used)


def _fault_record(fault: Fault) -> layout.FaultRecord:
    _require(0 <= fault.code <= 999, "NVML error", "0 to 999")
    _require(0 <= fault.hang_seconds < 10**9, "hang", "0 to 999999999 seconds")
    _require(len(fault.function) < 96, "function", "the name of an NVML function")
    return layout.FaultRecord(fault.code, 0, round(fault.hang_seconds * 1000), fault.function.encode())


def _gpu(index: int, gpu: layout.GPURecord) -> SimulatedGPU:
    fault = Fault(gpu.fault.code, gpu.fault.hang_ms / 1000, gpu.fault.function.decode())
    return SimulatedGPU(
        index=index,
        uuid=gpu.uuid.decode(),
        name=gpu.name.decode(),
        memory_total_bytes=gpu.memory_total_bytes,
        memory_used_bytes=gpu.memory_used_bytes,
        utilization_ratio=gpu.utilization_percent / 100,
        temperature_celsius=gpu.temperature_celsius,
        power_watts=gpu.power_milliwatts / 1000,
        processes=tuple(_process(gpu.processes[number]) for number in range(gpu.process_count)),
        fault=fault,
    )


def _process(process: layout.ProcessRecord) -> SimulatedProcess:
    used = None if process.memory_used_bytes == layout.MEMORY_NOT_AVAILABLE else process.memory_used_bytes
    return SimulatedProcess(process.pid, used, process.kind == layout.GRAPHICS)
