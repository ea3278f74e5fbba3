"""The XIDs of this server's GPUs: errors that the driver reports by itself, as it writes them to the kernel's log."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import pynvml

from idl_hub.gpus.nvml_errors import NOT_AVAILABLE, ErrorCounts
from idl_hub.gpus.reading import XIDS_KEPT, Xid

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_MILLISECONDS = 1000
"""How long a watch waits for an event before it looks whether it is to stop."""
RETRY_SECONDS = 30.0
CODES_KEPT = 64
"""How many different codes of one GPU are counted; NVIDIA's list has some 150, of which a card shows a few."""


class XidLog:
    """What was reported since the start. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[str, deque[Xid]] = {}
        self._counts: dict[tuple[str, int], tuple[int, float]] = {}

    def add(self, uuid: str, xid: Xid) -> None:
        """Take down one report."""
        with self._lock:
            self._newest.setdefault(uuid, deque(maxlen=XIDS_KEPT)).append(xid)
            known = sum(one == uuid for one, _ in self._counts)
            if known < CODES_KEPT or (uuid, xid.code) in self._counts:
                count, _ = self._counts.get((uuid, xid.code), (0, 0.0))
                self._counts[uuid, xid.code] = count + 1, xid.at

    def newest(self, uuid: str | None) -> tuple[Xid, ...]:
        """Return the newest of one GPU, oldest first."""
        with self._lock:
            return tuple(self._newest.get(uuid, ())) if uuid is not None else ()

    def counts(self) -> dict[tuple[str, int], tuple[int, float]]:
        """Return (UUID, code) -> how often, and when last."""
        with self._lock:
            return dict(self._counts)


class XidWatch:
    """Waits for one GPU's XIDs in a thread of its own, because a sick GPU would hold up the others'.

    Parameters
    ----------
    index
        NVML's number of the GPU. NVML must be initialised until the watch has ended.
    log
        Where reports go.
    errors
        Where NVML's errors are counted.
    clock
        Where the time comes from; the driver gives none.
    """

    def __init__(self, index: int, log: XidLog, errors: ErrorCounts, clock: Callable[[], float]) -> None:
        self._index = index
        self._log = log
        self._errors = errors
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"NVML XIDs of GPU {index}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end, within a second unless NVML hangs."""
        self._stopping.set()

    def join(self, timeout: float) -> bool:
        """Return whether the thread ended in time."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._watch()
            except pynvml.NVMLError as error:
                if error.value in NOT_AVAILABLE:
                    return  # this driver or GPU reports none
            self._stopping.wait(RETRY_SECONDS)

    def _watch(self) -> None:
        handle = self._ask(pynvml.nvmlDeviceGetHandleByIndex, self._index)
        uuid: str = self._ask(pynvml.nvmlDeviceGetUUID, handle)
        events = self._ask(pynvml.nvmlEventSetCreate)
        try:
            self._ask(pynvml.nvmlDeviceRegisterEvents, handle, pynvml.nvmlEventTypeXidCriticalError, events)
            while not self._stopping.is_set():
                event = self._ask(pynvml.nvmlEventSetWait_v2, events, WAIT_MILLISECONDS)
                if event is not None and event.eventType == pynvml.nvmlEventTypeXidCriticalError:
                    self._log.add(uuid, Xid(int(event.eventData), self._clock()))
        finally:
            with contextlib.suppress(pynvml.NVMLError):  # NVML may be gone already
                pynvml.nvmlEventSetFree(events)

    def _ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Return the answer, None when nothing happened in time."""
        try:
            return function(*arguments)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_TIMEOUT:
                return None
            if error.value not in NOT_AVAILABLE:
                self._errors.add(function.__name__, error.value)
            raise
