"""Which NVML errors are errors, and how often each came."""

from __future__ import annotations

import threading
from collections import Counter

import pynvml

NOT_AVAILABLE = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,  # the driver is older than nvidia-ml-py
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,  # likewise
        pynvml.NVML_ERROR_NO_PERMISSION,
    }
)
"""Errors that only mean: this GPU, driver or user does not get this value."""


class ErrorCounts:
    """How often each function answered with which error since the start; values not supported are no errors."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, int]] = Counter()

    def add(self, function: str, code: int) -> None:
        """Count one error of this number (``nvmlReturn_t``)."""
        with self._lock:
            self._counts[function, code] += 1

    def snapshot(self) -> dict[tuple[str, int], int]:
        """Return (function, error number) -> how often."""
        with self._lock:
            return dict(self._counts)
