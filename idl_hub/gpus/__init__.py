"""Which GPU is free and who holds it. Public names; `nvml` is imported by those who read it."""

from idl_hub.gpus.reading import GPU, Health, HealthState, Process, ServerReading

__all__ = ["GPU", "Health", "HealthState", "Process", "ServerReading"]
