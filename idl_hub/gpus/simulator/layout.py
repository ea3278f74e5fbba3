"""The layout of the state file, as in ``state.h``; a test compares every size and offset."""

from __future__ import annotations

import ctypes

MAGIC = b"IDLHUBNV"
VERSION = 1
MAX_GPUS = 64
MAX_PROCESSES = 32
MAX_FUNCTIONS = 1024
XIDS_KEPT = 16
MEMORY_NOT_AVAILABLE = 2**64 - 1
COMPUTE, GRAPHICS = 0, 1


class FaultRecord(ctypes.LittleEndianStructure):
    """``struct idlhub_fault``."""

    _fields_ = (
        ("code", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("hang_ms", ctypes.c_uint64),
        ("function", ctypes.c_char * 96),
    )


class ProcessRecord(ctypes.LittleEndianStructure):
    """``struct idlhub_process``."""

    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("kind", ctypes.c_uint32),
        ("memory_used_bytes", ctypes.c_uint64),
    )


class GPURecord(ctypes.LittleEndianStructure):
    """``struct idlhub_gpu``."""

    _fields_ = (
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("pci_domain", ctypes.c_uint32),
        ("pci_bus", ctypes.c_uint32),
        ("pci_device", ctypes.c_uint32),
        ("fan_percent", ctypes.c_uint32),
        ("memory_total_bytes", ctypes.c_uint64),
        ("memory_reserved_bytes", ctypes.c_uint64),
        ("memory_used_bytes", ctypes.c_uint64),
        ("utilization_percent", ctypes.c_uint32),
        ("memory_utilization_percent", ctypes.c_uint32),
        ("temperature_celsius", ctypes.c_uint32),
        ("power_milliwatts", ctypes.c_uint32),
        ("power_limit_milliwatts", ctypes.c_uint32),
        ("process_count", ctypes.c_uint32),
        ("fault", FaultRecord),
        ("processes", ProcessRecord * MAX_PROCESSES),
    )


class StateRecord(ctypes.LittleEndianStructure):
    """``struct idlhub_state``: the whole file."""

    _fields_ = (
        ("magic", ctypes.c_char * 8),
        ("version", ctypes.c_uint32),
        ("gpu_count", ctypes.c_uint32),
        ("sequence", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("driver_version", ctypes.c_char * 80),
        ("driver_fault", FaultRecord),
        ("gpus", GPURecord * MAX_GPUS),
    )


class GPUXidsRecord(ctypes.LittleEndianStructure):
    """``struct idlhub_gpu_xids``."""

    _fields_ = (
        ("count", ctypes.c_uint32),
        ("codes", ctypes.c_uint32 * XIDS_KEPT),
    )


class XidsRecord(ctypes.LittleEndianStructure):
    """``struct idlhub_xids``: the whole file of XIDs."""

    _fields_ = (("gpus", GPUXidsRecord * MAX_GPUS),)


class CallCountRecord(ctypes.LittleEndianStructure):
    """``struct idlhub_call_count``."""

    _fields_ = (
        ("function", ctypes.c_char * 96),
        ("calls", ctypes.c_uint64),
    )


class CallsRecord(ctypes.LittleEndianStructure):
    """``struct idlhub_calls``: the whole file of call counts."""

    _fields_ = (("functions", CallCountRecord * MAX_FUNCTIONS),)
