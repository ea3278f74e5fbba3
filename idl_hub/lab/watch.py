"""Looks at this server's GPU from inside, as the student's programs see it; nobody waits for NVML."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idl_hub.gpus.nvml import Nvml
from idl_hub.gpus.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from idl_hub.gpus.reading import ServerReading

START_NVML_AGAIN_SECONDS = 30.0
"""A container that lost its GPU is only noticed by what opens the device anew: whoever has it open keeps it."""
SURE_AFTER_SECONDS = 10.0
_PATIENCE_SECONDS = 1.0
_FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """What NVML says in this server."""

    reading: ServerReading | None = None
    """None: there is no GPU to look at, or nothing was read yet."""
    lost: str = ""
    """Why the GPU that belongs to this server cannot be used, in words for its student; empty when it can."""


def gpus_of_this_server(visible_devices: str) -> tuple[str, ...]:
    """Return the UUIDs in ``NVIDIA_VISIBLE_DEVICES``, by which the hub hands GPUs to a server."""
    words = (word.strip() for word in visible_devices.split(","))
    return tuple(word for word in words if word.startswith("GPU-"))


def why_lost(uuids: Iterable[str], reading: ServerReading) -> str:
    """Return why not all of these GPUs can be used; empty when they can."""
    if not reading.health.ok:
        return reading.health.words
    gpus = {gpu.uuid: gpu for gpu in reading.gpus}
    for uuid in uuids:
        gpu = gpus.get(uuid)
        if gpu is None:
            return "the driver does not list it in this server any more"
        if not gpu.health.ok:
            return gpu.health.words
    return ""


class GPUWatch:
    """Reads NVML in a thread of its own whenever somebody asks.

    Parameters
    ----------
    uuids
        The GPUs that the hub gave this server; with none, NVML is left alone.
    make_nvml, clock
        Where readings and seconds come from.
    hung_after_seconds
        How long NVML may be silent before the GPU counts as lost: starting it can take a while.
    """

    def __init__(
        self,
        uuids: tuple[str, ...],
        make_nvml: Callable[[], Nvml] = lambda: Nvml("this server"),
        clock: Callable[[], float] = time.monotonic,
        hung_after_seconds: float = 60.0,
    ) -> None:
        self._uuids = uuids
        self._hung_after = hung_after_seconds
        self._make_nvml = make_nvml
        self._clock = clock
        self._nvml: Nvml | None = None
        self._start_again_at = 0.0
        self._reading: ServerReading | None = None
        self._read_at = float("-inf")
        self._lost_since: float | None = None
        self._worker: Worker | None = None
        self._one_at_a_time = asyncio.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    async def look(self) -> Look:
        """Return what NVML says now, or, where it takes longer than a second, what it said last."""
        if not self._uuids:
            return Look()
        async with self._one_at_a_time:
            if self._worker is None:
                self._worker = Worker("GPU of this server", self._read, threading.Condition())
            if self._clock() - self._read_at >= _FRESH_SECONDS:
                await self._read_soon(self._worker)
            if (waiting := self._worker.busy_seconds()) > self._hung_after:
                return Look(self._reading, f"it has not answered for {waiting:.0f} s")
            return Look(self._reading, self._surely_lost())

    async def _read_soon(self, worker: Worker) -> None:
        answered = asyncio.Event()
        self._waiting = (asyncio.get_running_loop(), answered)
        worker.request()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(answered.wait(), _PATIENCE_SECONDS)

    def close(self) -> None:
        """Let the thread end."""
        if self._worker is not None:
            self._worker.stop()

    def _read(self) -> None:
        try:
            if self._nvml is None:
                self._nvml = self._make_nvml()
            if self._clock() >= self._start_again_at:
                self._nvml.close()
                self._start_again_at = self._clock() + START_NVML_AGAIN_SECONDS
            self._reading = self._nvml.read()
            self._read_at = self._clock()
        finally:
            if self._waiting is not None:
                loop, answered = self._waiting
                with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                    loop.call_soon_threadsafe(answered.set)

    def _surely_lost(self) -> str:
        """Return why it is lost, once that has lasted: a driver may stumble once."""
        words = why_lost(self._uuids, self._reading) if self._reading else ""
        if not words:
            self._lost_since = None
            return ""
        if self._lost_since is None:
            self._lost_since = self._clock()
        return words if self._clock() - self._lost_since >= SURE_AFTER_SECONDS else ""
