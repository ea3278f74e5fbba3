"""Which GPU is free and who holds it. Public names; `nvml` is imported by those who read it."""

from idl_hub.gpus.reading import (
    GPU,
    Disk,
    Health,
    HealthState,
    Process,
    ProcessOrigin,
    ServerFigures,
    ServerReading,
    Xid,
)

__all__ = [
    "GPU",
    "Disk",
    "Health",
    "HealthState",
    "Process",
    "ProcessOrigin",
    "ServerFigures",
    "ServerReading",
    "Xid",
]
