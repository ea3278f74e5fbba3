"""The GPUs of this server, read through NVML. With `xids`, the only module that touches nvidia-ml-py.

Nothing here raises because of a GPU or a driver: what NVML answers becomes a `Health`. NVML is
initialised once and kept, because without persistence mode each GPU takes seconds to wake.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pynvml

from idl_hub.gpus.nvml_errors import NOT_AVAILABLE, ErrorCounts
from idl_hub.gpus.processes import NOWHERE, HostProcesses
from idl_hub.gpus.reading import GPU, HEALTHY, Health, HealthState, Process, ServerReading
from idl_hub.gpus.sampler import Sampler
from idl_hub.gpus.xids import XidLog, XidWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from pathlib import Path

__all__ = ["ErrorCounts", "Nvml", "Sampler"]

NVML_IS_GONE = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
"""Errors after which NVML must be initialised again, for all GPUs."""

LONGEST_RETRY_SECONDS = 30.0
_WATCHES_END_SECONDS = 2.0

_EXPLANATIONS = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded (see `dmesg` and `modprobe nvidia`)",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 was not found: no NVIDIA driver is installed",
    pynvml.NVML_ERROR_GPU_IS_LOST: "the GPU fell off the bus (see Xid in `dmesg`); reboot the server",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated but the old one still runs; reboot the server",
}
_STATES = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: HealthState.DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: HealthState.NO_LIBRARY,
    pynvml.NVML_ERROR_GPU_IS_LOST: HealthState.LOST,
}


def _health_of(code: int, asked: str) -> Health:
    words = _EXPLANATIONS.get(code) or f"{asked} failed: {pynvml.NVMLError(code)} (NVML error {code})"
    return Health(_STATES.get(code, HealthState.ERROR), code, words)


class _GPUStoppedError(Exception):
    """The GPU will not answer anything else either."""


class _Questions:
    """Asks for one value after another and remembers the first thing that went wrong."""

    def __init__(self, errors: ErrorCounts) -> None:
        self.health = HEALTHY
        self._errors = errors

    def ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Return the value, or None where it is not available or its function is broken."""
        try:
            return function(*arguments)
        except pynvml.NVMLError as error:
            code: int = error.value
        if code in NOT_AVAILABLE:
            return None
        if code == pynvml.NVML_ERROR_GPU_IS_LOST or code in NVML_IS_GONE:
            self._stop(code, function)
        self._errors.add(function.__name__, code)
        if self.health.ok:
            self.health = _health_of(code, function.__name__)
        return None

    def require(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Return the value without which the GPU cannot be read at all."""
        try:
            return function(*arguments)
        except pynvml.NVMLError as error:
            self._stop(error.value, function)

    def _stop(self, code: int, function: Callable[..., Any]) -> NoReturn:
        self._errors.add(function.__name__, code)
        self.health = _health_of(code, function.__name__)
        raise _GPUStoppedError


class Device:
    """One GPU of an initialised NVML. Used by one thread at a time.

    Parameters
    ----------
    index
        NVML's number for it.
    errors
        Where errors are counted.
    processes
        What finds a process by its PID; None where NVML's PIDs cannot be found.
    """

    def __init__(self, index: int, errors: ErrorCounts, processes: HostProcesses | None) -> None:
        self._errors = errors
        self._host_processes = processes
        self.identity = GPU(uuid=None, index=index, health=HEALTHY)
        """What never changes of this GPU, as far as it was readable; all else is None."""
        self._handle: Any = None
        self._process_names: dict[int, str | None] = {}

    def read(self) -> GPU:
        """Return the GPU as it is now. Blocks as long as NVML does; raises nothing of NVML's."""
        questions = _Questions(self._errors)
        try:
            return self._read(questions)
        except _GPUStoppedError:
            self._handle = None  # found again at the next reading, should the GPU come back
            return replace(self.identity, health=questions.health)

    def _read(self, questions: _Questions) -> GPU:
        if self._handle is None:
            self._open(questions)
        handle, ask = self._handle, questions.ask
        memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
        utilization = ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
        power_milliwatts = ask(pynvml.nvmlDeviceGetPowerUsage, handle)
        temperature = ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
        fan_speed_percent = ask(pynvml.nvmlDeviceGetFanSpeed, handle)
        processes = self._processes(questions)
        return replace(
            self.identity,
            memory_total_bytes=memory and memory.total,
            memory_used_bytes=memory and memory.used,
            memory_free_bytes=memory and memory.free,
            utilization_ratio=utilization and utilization.gpu / 100,
            temperature_celsius=temperature,
            power_watts=_thousandth(power_milliwatts),
            processes=processes,
            memory_utilization_ratio=utilization and utilization.memory / 100,
            fan_speed_ratio=None if fan_speed_percent is None else fan_speed_percent / 100,
            health=questions.health,
        )

    def _open(self, questions: _Questions) -> None:
        handle = questions.require(pynvml.nvmlDeviceGetHandleByIndex, self.identity.index)
        pci = questions.ask(pynvml.nvmlDeviceGetPciInfo, handle)
        self.identity = replace(
            self.identity,
            uuid=questions.require(pynvml.nvmlDeviceGetUUID, handle),
            name=questions.ask(pynvml.nvmlDeviceGetName, handle),
            pci_bus_id=pci and _text(pci.busId),
            power_limit_watts=_thousandth(questions.ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        )
        self._handle = handle

    def _processes(self, questions: _Questions) -> tuple[Process, ...] | None:
        compute = questions.ask(pynvml.nvmlDeviceGetComputeRunningProcesses, self._handle)
        graphics = questions.ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, self._handle)
        if compute is None and graphics is None:
            return None
        found = {entry.pid: entry.usedGpuMemory for entry in [*(graphics or ()), *(compute or ())]}
        self._process_names = {pid: self._process_name(pid) for pid in found}
        return tuple(self._process(pid, used) for pid, used in found.items())

    def _process(self, pid: int, memory_used_bytes: int | None) -> Process:
        where = NOWHERE if self._host_processes is None else self._host_processes.find(pid)
        name = self._process_names[pid]
        return Process(
            pid, memory_used_bytes, name, where.origin, where.container_id, where.uid, where.pid_in_container
        )

    def _process_name(self, pid: int) -> str | None:
        known = self._process_names.get(pid)
        if known is not None:  # one without a name may have only just begun
            return known
        try:
            return str(pynvml.nvmlSystemGetProcessName(pid))
        except (pynvml.NVMLError, UnicodeDecodeError):  # gone, not ours to see, or named to annoy
            return None


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


class Nvml:
    """NVML of this server.

    `read` is all that a caller without a deadline needs; it takes milliseconds, but as long as NVML
    hangs it hangs too. `Sampler` keeps reading in the background and never does.

    Parameters
    ----------
    server
        The name that readings carry.
    library
        The simulator's library, to load in place of the driver's ``libnvidia-ml.so.1``. One process has
        one NVML: it must be loaded before anything else loads the driver's.
    processes
        What finds the container of a process by its PID.
    watch_xids
        Whether to wait for errors that the driver reports; it takes a thread for each GPU.
    clock, monotonic
        Where the time comes from.
    """

    def __init__(
        self,
        server: str,
        *,
        library: Path | None = None,
        processes: HostProcesses | None = None,
        watch_xids: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.devices: tuple[Device, ...] = ()
        self.health = Health(HealthState.ERROR, words="NVML was not asked yet")
        self.errors = ErrorCounts()
        self.xids = XidLog()
        self._server = server
        self._library = library
        self._processes = processes or HostProcesses()
        self._watch_xids = watch_xids
        self._watches: list[XidWatch] = []
        self._clock = clock
        self._monotonic = monotonic
        self._driver_version: str | None = None
        self._simulated = False
        self._initialised = False
        self._known: dict[str, GPU] = {}
        self._retry_at = 0.0
        self._retry_seconds = 0.0

    def read(self) -> ServerReading:
        """Return all GPUs as they are now, one after the other."""
        self.open()
        devices = self.devices if self.health.ok else ()
        return self.assemble(device.read() for device in devices)

    def open(self) -> None:
        """Initialise NVML where that is due; `health` tells the outcome.

        After a failure the next attempt comes 1, 2, 4, ... and at most 30 seconds later.
        """
        if self.health.ok or self._monotonic() < self._retry_at:
            return
        self.close()
        try:
            self._load()
            self._ask(pynvml.nvmlInit)
            self._initialised = True
            self._driver_version = str(self._ask(pynvml.nvmlSystemGetDriverVersion))
            count: int = self._ask(pynvml.nvmlDeviceGetCount)
        except pynvml.NVMLError as error:
            self._fail(_health_of(error.value, "Starting NVML"))
        except OSError as error:
            self._fail(Health(HealthState.NO_LIBRARY, words=f"{self._library} cannot be loaded: {error}"))
        else:
            # A simulated driver gives the PIDs that it was told, in whatever namespace that was.
            findable = self._simulated or self._processes.are_the_hosts()
            processes = self._processes if findable else None
            self.devices = tuple(Device(index, self.errors, processes) for index in range(count))
            if self._watch_xids:
                self._watches = [XidWatch(index, self.xids, self.errors, self._clock) for index in range(count)]
            self.health = HEALTHY
            self._retry_seconds = 0.0

    def close(self) -> None:
        """Let go of NVML. A later `open` or `read` starts it again."""
        self.devices = ()
        if self.health.ok:
            self.health = Health(HealthState.ERROR, words="NVML was closed")
        self._end_watches()
        if self._initialised:
            self._initialised = False
            with contextlib.suppress(pynvml.NVMLError):  # the driver may be gone already
                pynvml.nvmlShutdown()

    def _end_watches(self) -> None:
        """End them before NVML is shut down under them; one that hangs is left behind."""
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.stop()
        end = time.monotonic() + _WATCHES_END_SECONDS
        for watch in watches:
            watch.join(max(0.0, end - time.monotonic()))

    def assemble(self, gpus: Iterable[GPU], health: Health | None = None) -> ServerReading:
        """Return the reading made of these; GPUs known from earlier that are not among them are added.

        Notices when the GPUs' answers mean that NVML as a whole must be started again. `health` is
        what a caller knows better of NVML as a whole.
        """
        gpus = list(gpus)
        uuids = {gpu.uuid for gpu in gpus}
        current = [gpu if gpu.uuid else self._recognise(gpu, uuids) for gpu in gpus]
        for gpu in current:
            if gpu.health.nvml_code in NVML_IS_GONE and self.health.ok:
                self._fail(gpu.health)
            if gpu.uuid:
                self._known[gpu.uuid] = gpu
        health = health or self.health
        missing = self._known.keys() - {gpu.uuid for gpu in current}
        current.extend(self._known[uuid].without_values(_health_of_missing(health)) for uuid in missing)
        return ServerReading(
            server=self._server,
            taken_at=self._clock(),
            health=health,
            gpus=tuple(sorted((self._with_xids(gpu) for gpu in current), key=lambda gpu: (gpu.index, gpu.uuid or ""))),
            driver_version=self._driver_version,
            simulated=self._simulated,
        )

    def _ask(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except pynvml.NVMLError as error:
            self.errors.add(function.__name__, error.value)
            raise

    def _load(self) -> None:
        if self._library is not None:
            # Once loaded, it is what glibc finds under its SONAME, by which nvidia-ml-py asks.
            ctypes.CDLL(os.fspath(self._library), mode=ctypes.RTLD_GLOBAL)
        pynvml._LoadNvmlLibrary()
        self._simulated = hasattr(pynvml.nvmlLib, "idlhub_simulator_version")
        if self._library is not None and not self._simulated:
            raise OSError("this process uses another libnvidia-ml.so.1 already")

    def _fail(self, health: Health) -> None:
        if self._simulated and health.state is HealthState.DRIVER_NOT_LOADED:
            path = os.environ.get("IDLHUB_SIMULATOR_STATE")
            words = f"the simulator says: no driver (IDLHUB_SIMULATOR_STATE is {path!r}; see `idl-hub simulate`)"
            health = replace(health, words=words)
        self.health = health
        self._retry_seconds = min(max(1.0, 2 * self._retry_seconds), LONGEST_RETRY_SECONDS)
        self._retry_at = self._monotonic() + self._retry_seconds

    def _with_xids(self, gpu: GPU) -> GPU:
        xids = self.xids.newest(gpu.uuid)
        return replace(gpu, xids=xids) if xids else gpu

    def _recognise(self, gpu: GPU, elsewhere: Container[str | None]) -> GPU:
        """Return who a GPU is that cannot tell: the one that had its index and is not elsewhere."""
        for uuid, known in self._known.items():
            if known.index == gpu.index and uuid not in elsewhere:
                return known.without_values(gpu.health)
        return gpu


def _health_of_missing(health: Health) -> Health:
    if not health.ok:
        return health
    return Health(HealthState.LOST, words="the driver no longer lists this GPU; reboot the server")
