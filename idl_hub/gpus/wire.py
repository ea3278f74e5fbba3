"""Readings as they travel from an agent to the hub: JSON, and on arrival nothing but what can be true.

What comes over the network was made by another machine, perhaps a sick or a hostile one. `decode`
gives a whole and plausible reading or raises `WireError`; there is nothing in between.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from typing import Any

from idl_hub.gpus.reading import (
    GPU,
    XIDS_KEPT,
    Disk,
    Health,
    HealthState,
    Process,
    ProcessOrigin,
    ServerFigures,
    ServerReading,
    Xid,
)
from idl_hub.gpus.strict import (
    WireError,
    boolean,
    check_keys,
    integer,
    matching,
    number,
    one_of,
    optional,
    parse_json,
    record,
    text,
    tuple_of,
)

__all__ = ["MAX_BYTES", "VERSION", "WireError", "decode", "encode"]

VERSION = 1
"""Of the form. Agent and hub are of one release; another number is refused."""
MAX_BYTES = 2**20
"""Longer bodies are refused unread. Eight GPUs with four processes each take some 10,000 bytes."""
MAX_GPUS = 64
MAX_PROCESSES = 128
"""Of one GPU. Of more, those with the most memory are sent."""
MAX_NAME = 256
MAX_WORDS = 1000

_BYTES = 2**50
_SECONDS = 10**11
_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,95}")
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


def encode(reading: ServerReading, age_seconds: float) -> bytes:
    """Return a reading as `decode` accepts it.

    Text that no page should show is made harmless, and a GPU about which the driver says what cannot
    be true is sent as sick, so that neither a process's name nor one card can silence a server.

    Parameters
    ----------
    age_seconds
        How long ago it was taken. The receiver trusts this, and not the clock of the sender.
    """
    plain = _plain(
        replace(
            reading,
            health=_harmless_health(reading.health),
            driver_version=_harmless(reading.driver_version),
            gpus=tuple(_sendable(gpu) for gpu in reading.gpus),
            figures=_sendable_figures(reading.figures),
        )
    )
    whole = {"version": VERSION, "age_seconds": age_seconds, "reading": plain}
    return json.dumps(whole, separators=(",", ":"), allow_nan=False).encode()


def decode(body: bytes, received_at: float) -> ServerReading:
    """Return the reading that these bytes hold, with all times by the clock of the receiver.

    Parameters
    ----------
    received_at
        The receiver's clock, seconds since the epoch.

    Raises
    ------
    WireError
        The bytes are anything but a whole, plausible reading of this version.
    """
    if len(body) > MAX_BYTES:
        raise WireError(f"the answer has {len(body)} bytes; more than {MAX_BYTES} are not read")
    whole = parse_json(body)
    if isinstance(whole, dict) and type(whole.get("version")) is int and whole["version"] != VERSION:
        raise WireError(f"the form of its answers is not number {VERSION}, as here: agent and hub differ in release")
    check_keys(whole, "answer", {"version", "age_seconds", "reading"})
    integer(VERSION, VERSION)(whole["version"], "version")
    age_seconds = number(0, _SECONDS)(whole["age_seconds"], "age_seconds")
    return _by_the_clock_of_the_receiver(_READING(whole["reading"], "reading"), received_at - age_seconds)


def _by_the_clock_of_the_receiver(reading: ServerReading, taken_at: float) -> ServerReading:
    shift = taken_at - reading.taken_at
    figures = reading.figures
    return replace(
        reading,
        taken_at=taken_at,
        gpus=tuple(
            replace(gpu, xids=tuple(Xid(xid.code, xid.at + shift) for xid in gpu.xids)) if gpu.xids else gpu
            for gpu in reading.gpus
        ),
        figures=figures and replace(figures, booted_at=figures.booted_at + shift),
    )


# Sending


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value.value if isinstance(value, StrEnum) else value


def _harmless(words: str | None, most: int = MAX_NAME) -> str | None:
    if words is None or (words.isprintable() and len(words) <= most):
        return words
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words[:most])


def _harmless_health(health: Health) -> Health:
    return replace(health, words=_harmless(health.words, MAX_WORDS) or "")


def _sendable(gpu: GPU) -> GPU:
    processes = gpu.processes
    if processes is not None:
        processes = tuple(replace(process, name=_harmless(process.name)) for process in processes)
        processes = tuple(sorted(processes, key=lambda process: -(process.memory_used_bytes or 0))[:MAX_PROCESSES])
    harmless = replace(gpu, name=_harmless(gpu.name), health=_harmless_health(gpu.health), processes=processes)
    try:
        return _GPU(_plain(harmless), "")
    except WireError as error:
        words = f"the driver says what cannot be true: {error}"[:MAX_WORDS]
        sick = gpu.without_values(Health(HealthState.ERROR, words=_harmless(words, MAX_WORDS) or ""))
        known = gpu.uuid is not None and _UUID.fullmatch(gpu.uuid)
        return replace(sick, uuid=gpu.uuid if known else None, name=_harmless(gpu.name), pci_bus_id=None)


def _sendable_figures(figures: ServerFigures | None) -> ServerFigures | None:
    try:
        return _FIGURES(_plain(figures), "") if figures else None
    except WireError:
        return None


# What can be true


def _contradiction_of_health(health: Health) -> str:
    return "all is well, and yet there is an error" if health.ok and (health.nvml_code or health.words) else ""


def _contradiction_of_process(process: Process) -> str:
    consistent = (process.container_id is not None) == (process.origin is ProcessOrigin.CONTAINER)
    if not consistent:
        return "a container without an id, or an id without one"
    outside = process.container_id is None and process.pid_in_container is not None
    return "a PID in a container, but no container" if outside else ""


def _contradiction_of_gpu(gpu: GPU) -> str:
    total = gpu.memory_total_bytes
    for part in (gpu.memory_used_bytes, gpu.memory_free_bytes):
        if total is not None and part is not None and part > total:
            return "more memory than there is"
    if gpu.health.ok and gpu.uuid is None:
        return "all is well, and yet it has no UUID"
    pids = [process.pid for process in gpu.processes or ()]
    return "a process is there twice" if len(set(pids)) != len(pids) else ""


def _contradiction_of_disk(disk: Disk) -> str:
    if disk.total_bytes is None or disk.free_bytes is None:
        return "half of its figures" if disk.total_bytes != disk.free_bytes else ""
    return "more is free than there is" if disk.free_bytes > disk.total_bytes else ""


def _contradiction_of_figures(figures: ServerFigures) -> str:
    return "more memory is free than there is" if figures.memory_available_bytes > figures.memory_total_bytes else ""


def _contradiction_of_reading(reading: ServerReading) -> str:
    uuids = [gpu.uuid for gpu in reading.gpus if gpu.uuid is not None]
    return "two GPUs have one UUID" if len(set(uuids)) != len(uuids) else ""


_AMOUNT = integer(0, _BYTES)
_RATIO = number(0, 1)
_MOMENT = number(0, _SECONDS)
_HEALTH = record(
    Health,
    {"state": one_of(HealthState), "nvml_code": optional(integer(0, 2**31)), "words": text(MAX_WORDS)},
    _contradiction_of_health,
)
_PROCESS = record(
    Process,
    {
        "pid": integer(1, 2**32 - 1),
        "memory_used_bytes": optional(_AMOUNT),
        "name": optional(text(MAX_NAME)),
        "origin": one_of(ProcessOrigin),
        "container_id": optional(matching(_CONTAINER_ID)),
        "uid": optional(integer(0, 2**32 - 1)),
        "pid_in_container": optional(integer(1, 2**32 - 1)),
    },
    _contradiction_of_process,
)
_GPU = record(
    GPU,
    {
        "uuid": optional(matching(_UUID)),
        "index": integer(0, 1023),
        "health": _HEALTH,
        "name": optional(text(MAX_NAME)),
        "pci_bus_id": optional(text(32)),
        "memory_total_bytes": optional(_AMOUNT),
        "memory_used_bytes": optional(_AMOUNT),
        "memory_free_bytes": optional(_AMOUNT),
        "utilization_ratio": optional(_RATIO),
        "temperature_celsius": optional(integer(-100, 300)),
        "power_watts": optional(number(0, 100_000)),
        "processes": optional(tuple_of(_PROCESS, MAX_PROCESSES)),
        "memory_utilization_ratio": optional(_RATIO),
        "fan_speed_ratio": optional(number(0, 10)),
        "power_limit_watts": optional(number(0, 100_000)),
        "xids": tuple_of(record(Xid, {"code": integer(0, 2**32), "at": _MOMENT}), XIDS_KEPT),
    },
    _contradiction_of_gpu,
)
_DISK = record(
    Disk,
    {"path": text(MAX_NAME), "total_bytes": optional(_AMOUNT), "free_bytes": optional(_AMOUNT)},
    _contradiction_of_disk,
)
_FIGURES = record(
    ServerFigures,
    {
        "cpu_count": integer(1, 2**20),
        "cpu_utilization_ratio": optional(_RATIO),
        "load_average_1_minute": number(0, 10**7),
        "load_average_5_minutes": number(0, 10**7),
        "load_average_15_minutes": number(0, 10**7),
        "memory_total_bytes": _AMOUNT,
        "memory_available_bytes": _AMOUNT,
        "booted_at": _MOMENT,
        "disks": tuple_of(_DISK, 32),
    },
    _contradiction_of_figures,
)
_READING = record(
    ServerReading,
    {
        "server": text(MAX_NAME),
        "taken_at": _MOMENT,
        "health": _HEALTH,
        "gpus": tuple_of(_GPU, MAX_GPUS),
        "driver_version": optional(text(MAX_NAME)),
        "simulated": boolean,
        "duration_seconds": optional(number(0, _SECONDS)),
        "figures": optional(_FIGURES),
    },
    _contradiction_of_reading,
)
