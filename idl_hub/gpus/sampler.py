"""Keeps reading the GPUs of this server, so that nobody has to wait for NVML.

A call into a broken driver can take forever, and no thread can be stopped that is in one. So each
GPU is read in a thread of its own, and one that is overdue is reported as hung while the others flow.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from idl_hub.gpus.reading import GPU, Health, HealthState, ServerReading
from idl_hub.gpus.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from idl_hub.gpus.figures import FigureReader
    from idl_hub.gpus.nvml import Device, Nvml

log = logging.getLogger(__name__)


class _GPUReader:
    """A device, its worker, and what it answered last."""

    def __init__(self, device: Device, done: threading.Condition) -> None:
        self.device = device
        self.worker = Worker(f"NVML GPU {device.identity.index}", self._read, done)
        self._last: GPU | None = None

    def _read(self) -> None:
        self._last = self.device.read()

    def overdue(self, deadline: float) -> bool:
        return self.worker.busy_seconds() > deadline

    def settled(self, deadline: float) -> bool:
        """Whether there is something to say: an answer, or that none came in time."""
        return self.worker.last_seconds is not None or self.overdue(deadline)

    def reading(self, deadline: float) -> GPU:
        """Return the last answer, or, when it took or takes too long, that the GPU is hung."""
        waiting, took = self.worker.busy_seconds(), self.worker.last_seconds or 0.0
        if waiting > deadline:
            return self._unread(HealthState.HUNG, f"the GPU has not answered NVML for {waiting:.0f} s")
        if took > deadline:
            return self._unread(HealthState.HUNG, f"the GPU took {took:.0f} s to answer NVML")
        if self.worker.failed or self._last is None:
            return self._unread(HealthState.ERROR, "reading the GPU failed; the log has the traceback")
        return self._last

    def _unread(self, state: HealthState, words: str) -> GPU:
        return self.device.identity.without_values(Health(state, words=words))


class Sampler:
    """Reads the GPUs every second in the background; `latest` never blocks.

    Parameters
    ----------
    nvml
        What to read; nobody else may use it meanwhile.
    period
        Seconds from one reading to the next.
    deadline
        Seconds after which a GPU that does not answer counts as hung.
    start_deadline
        The same for starting NVML, which wakes the GPUs up and may take some seconds each.
    figures
        Reads how the server itself is doing; None leaves that out.
    """

    def __init__(
        self,
        nvml: Nvml,
        *,
        period: float = 1.0,
        deadline: float = 5.0,
        start_deadline: float = 60.0,
        figures: FigureReader | None = None,
    ) -> None:
        self.last_success_at: float | None = None
        """When NVML and at least one GPU, if there are any, last answered; seconds since the epoch."""
        self._nvml = nvml
        self._figures = figures
        self._period = period
        self._deadline = deadline
        self._start_deadline = start_deadline
        self._done = threading.Condition()
        self._stopping = threading.Event()
        self._opener: Worker | None = None
        self._readers: list[_GPUReader] = []
        self._latest: tuple[ServerReading, float] | None = None
        """The newest reading and, by the monotonic clock, when it was taken."""
        self._first: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="NVML sampler", daemon=True)

    def start(self) -> None:
        """Begin to read. To be called once."""
        self._thread.start()

    def stop(self, timeout: float = 3.0) -> None:
        """End reading and let go of NVML; a thread that hangs in NVML is left behind, it ends with the process."""
        end = time.monotonic() + timeout
        self._stopping.set()
        with self._done:
            self._done.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self._figures is not None:
            self._figures.stop()
        workers = [reader.worker for reader in self._readers]
        if self._opener is not None:
            workers.append(self._opener)
        for worker in workers:
            worker.stop()
        ended = [worker.join(max(0.0, end - time.monotonic())) for worker in workers]
        if all(ended):
            self._nvml.close()

    def latest(self) -> ServerReading | None:
        """Return the newest reading at once; None before the first one. Its `taken_at` tells its age."""
        return self._latest[0] if self._latest else None

    def age_seconds(self) -> float:
        """Return how old the newest reading is, whatever happens to the clock; infinite before the first one."""
        return time.monotonic() - self._latest[1] if self._latest else math.inf

    async def wait_first(self, timeout: float) -> ServerReading:
        """Return the newest reading as soon as there is one.

        Raises
        ------
        TimeoutError
            None came in so many seconds.
        """
        await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._first)), timeout)
        assert self._latest is not None  # noqa: S101 - that is what the future stands for
        return self._latest[0]

    def _run(self) -> None:
        self._opener = opener = Worker("NVML start", self._nvml.open, self._done)
        next_tick = time.monotonic()
        while not self._stopping.is_set():
            next_tick = max(next_tick + self._period, time.monotonic())
            try:
                self._tick(opener, next_tick)
            except Exception:
                log.exception("Reading the GPUs failed; the next try is in %g s", self._period)
            self._stopping.wait(max(0.0, next_tick - time.monotonic()))

    def _tick(self, opener: Worker, end: float) -> None:
        """Ask all that are idle, wait for those that are not overdue, publish what is there."""
        started = time.monotonic()
        if not self._nvml.health.ok:
            opener.request()
            self._wait_for([opener], end)
        if opener.busy_seconds() or not self._nvml.health.ok:
            self._publish_without_gpus(opener.busy_seconds())
            return
        self._follow_devices()
        for reader in self._readers:
            reader.worker.request()
        self._wait_for([reader.worker for reader in self._readers if not reader.overdue(self._deadline)], end)
        if all(reader.settled(self._deadline) for reader in self._readers):
            reading = self._nvml.assemble(reader.reading(self._deadline) for reader in self._readers)
            self._publish(replace(reading, duration_seconds=time.monotonic() - started))

    def _publish_without_gpus(self, starting_seconds: float) -> None:
        hung = starting_seconds > self._start_deadline
        if starting_seconds and not hung and self._latest is None:
            return  # nothing to say yet
        words = f"NVML has not answered for {starting_seconds:.0f} s"
        self._publish(self._nvml.assemble((), Health(HealthState.HUNG, words=words) if hung else None))

    def _follow_devices(self) -> None:
        """Have a reader for each device of the NVML that was started last."""
        devices = self._nvml.devices
        if [reader.device for reader in self._readers] == list(devices):
            return
        for reader in self._readers:
            reader.worker.stop()
        self._readers = [_GPUReader(device, self._done) for device in devices]

    def _wait_for(self, workers: Sequence[Worker], end: float) -> None:
        def over() -> bool:
            return self._stopping.is_set() or all(worker.busy_since is None for worker in workers)

        with self._done:
            self._done.wait_for(over, max(0.0, end - time.monotonic()))

    def _publish(self, reading: ServerReading) -> None:
        if reading.health.ok and (not reading.gpus or any(gpu.health.ok for gpu in reading.gpus)):
            self.last_success_at = reading.taken_at
        if self._figures is not None:
            reading = replace(reading, figures=self._figures.read())
        self._latest = reading, time.monotonic()
        if not self._first.done():
            self._first.set_result(None)
