"""What is known of the GPUs of one server at one moment: the values that travel.

Every value carries its unit in its name. ``None`` means that the GPU or driver does not tell, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HealthState(StrEnum):
    """How a GPU, or NVML on a server as a whole, answers."""

    OK = "ok"
    LOST = "lost"
    """The GPU fell off the bus (NVML code 15) or the driver no longer lists it."""
    HUNG = "hung"
    """NVML did not answer within the deadline."""
    DRIVER_NOT_LOADED = "driver_not_loaded"
    NO_LIBRARY = "no_library"
    """No ``libnvidia-ml.so.1``: no NVIDIA driver is installed."""
    ERROR = "error"
    """NVML answered with any other error."""


@dataclass(frozen=True, slots=True)
class Health:
    """A state, and for people the reason."""

    state: HealthState
    nvml_code: int | None = None
    """NVML's error number (``nvmlReturn_t``), where it gave one."""
    words: str = ""
    """What happened, in words for an admin; empty when all is well."""

    @property
    def ok(self) -> bool:
        """Whether everything that was asked was answered."""
        return self.state is HealthState.OK


HEALTHY = Health(HealthState.OK)


class ProcessOrigin(StrEnum):
    """Where a process runs."""

    CONTAINER = "container"
    """In the container that ``container_id`` names."""
    OUTSIDE = "outside"
    """On the host itself, in no container: somebody from outside the hub."""
    UNKNOWN = "unknown"
    """It is gone, or its cgroup cannot be seen from here."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process on a GPU. Its PID is the host's, whatever PID namespace the reader lives in."""

    pid: int
    memory_used_bytes: int | None = None
    name: str | None = None
    """First word of its command line; ``None`` when it is gone or not visible from here."""
    origin: ProcessOrigin = ProcessOrigin.UNKNOWN
    container_id: str | None = None
    """The engine's id, 64 hexadecimal digits; there exactly when ``origin`` is a container."""
    uid: int | None = None
    """The real user id on the host; ``None`` when it is gone or not visible from here."""
    pid_in_container: int | None = None
    """Its PID as the container itself sees it; ``None`` outside a container."""


@dataclass(frozen=True, slots=True)
class Xid:
    """A critical error that the driver reported of a GPU; NVIDIA's list of XIDs says what a code means."""

    code: int
    at: float
    """Seconds since the epoch, when it was noticed, by the clock of the server that read."""


@dataclass(frozen=True, slots=True)
class GPU:
    """One GPU at one moment. When it is not healthy, what could still be read is there."""

    uuid: str | None
    """``None`` only for a GPU that never told who it is since this process started; it is not healthy then."""
    index: int
    """NVML's number for it, in PCI order; it can change when a GPU is lost or added."""
    health: Health
    name: str | None = None
    pci_bus_id: str | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    """As nvidia-smi shows it: without the share that the driver reserves for itself."""
    memory_free_bytes: int | None = None
    utilization_ratio: float | None = None
    """0 to 1: the share of the last 1/6 to 1 s in which any kernel ran."""
    temperature_celsius: int | None = None
    power_watts: float | None = None
    processes: tuple[Process, ...] | None = None
    memory_utilization_ratio: float | None = None
    """0 to 1: the share of the same time in which its memory was read or written."""
    fan_speed_ratio: float | None = None
    """Of the speed that the card calls full; it may go above 1."""
    power_limit_watts: float | None = None
    xids: tuple[Xid, ...] = ()
    """The newest since the reader started, oldest first; see `XIDS_KEPT`."""

    def without_values(self, health: Health) -> GPU:
        """Return only who this GPU is, with this health: nothing else can be told of it."""
        return GPU(self.uuid, self.index, health, self.name, self.pci_bus_id)


XIDS_KEPT = 16
"""How many XIDs of one GPU a reading holds at most."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system. Without figures, it did not answer in time (a network disk, say) or is not there."""

    path: str
    """The folder that was asked for, whatever file system it lies on."""
    total_bytes: int | None = None
    free_bytes: int | None = None
    """What users other than root can still write."""


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """How the server itself is doing."""

    cpu_count: int
    """Logical cores."""
    cpu_utilization_ratio: float | None
    """0 to 1, over all cores, since the reading before; ``None`` in the first one."""
    load_average_1_minute: float
    load_average_5_minutes: float
    load_average_15_minutes: float
    memory_total_bytes: int
    memory_available_bytes: int
    """What programs can still get without swapping."""
    booted_at: float
    """Seconds since the epoch."""
    disks: tuple[Disk, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerReading:
    """All GPUs of one server at one moment."""

    server: str
    taken_at: float
    """Seconds since the epoch, by the clock of the server that read."""
    health: Health
    """Of NVML as a whole. When not ok, ``gpus`` still names every GPU seen earlier."""
    gpus: tuple[GPU, ...] = ()
    driver_version: str | None = None
    simulated: bool = False
    duration_seconds: float | None = None
    """From the first question to the last answer that was waited for."""
    figures: ServerFigures | None = None
    """``None`` where nobody asked for them."""
