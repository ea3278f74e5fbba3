"""Keeps reading the GPUs of this server, so that nobody has to wait for NVML.

A call into a broken driver can take forever, and no thread can be stopped that is in one. So each
GPU is read in a thread of its own, and one that is overdue is reported as hung while the others flow.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING

from idl_hub.gpus.reading import GPU, Health, HealthState, ServerReading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from idl_hub.gpus.nvml import Device, Nvml

log = logging.getLogger(__name__)


class _Worker:
    """Does one blocking job, once for each request, in a thread of its own."""

    def __init__(self, name: str, job: Callable[[], None], done: threading.Condition) -> None:
        self.busy_since: float | None = None
        self.last_seconds: float | None = None
        """How long the last finished job took; None: none finished yet."""
        self.failed = False
        """Whether the last finished job raised."""
        self._job = job
        self._done = done
        self._requests: SimpleQueue[bool] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Have the job done once more; without effect while it is under way."""
        if self.busy_since is None:
            self.busy_since = time.monotonic()
            self._requests.put(True)

    def busy_seconds(self) -> float:
        """Return for how long the job has been under way; 0 when it is not."""
        since = self.busy_since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self) -> None:
        """Let the thread end, now or when its job returns."""
        self._requests.put(False)

    def join(self, timeout: float) -> bool:
        """Return whether the thread ended in time."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._requests.get():
            start = time.monotonic()
            try:
                self._job()
                self.failed = False
            except Exception:
                self.failed = True
                log.exception("%s failed", self._thread.name)  # the next request tries again
            with self._done:
                self.last_seconds = time.monotonic() - start
                self.busy_since = None
                self._done.notify_all()


class _GPUReader:
    """A device, its worker, and what it answered last."""

    def __init__(self, device: Device, done: threading.Condition) -> None:
        self.device = device
        self.worker = _Worker(f"NVML GPU {device.identity.index}", self._read, done)
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
    """

    def __init__(self, nvml: Nvml, *, period: float = 1.0, deadline: float = 5.0, start_deadline: float = 60.0) -> None:
        self._nvml = nvml
        self._period = period
        self._deadline = deadline
        self._start_deadline = start_deadline
        self._done = threading.Condition()
        self._stopping = threading.Event()
        self._opener: _Worker | None = None
        self._readers: list[_GPUReader] = []
        self._latest: ServerReading | None = None
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
        return self._latest

    async def wait_first(self, timeout: float) -> ServerReading:
        """Return the newest reading as soon as there is one.

        Raises
        ------
        TimeoutError
            None came in so many seconds.
        """
        await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._first)), timeout)
        assert self._latest is not None  # noqa: S101 - that is what the future stands for
        return self._latest

    def _run(self) -> None:
        self._opener = opener = _Worker("NVML start", self._nvml.open, self._done)
        next_tick = time.monotonic()
        while not self._stopping.is_set():
            next_tick = max(next_tick + self._period, time.monotonic())
            try:
                self._tick(opener, next_tick)
            except Exception:
                log.exception("Reading the GPUs failed; the next try is in %g s", self._period)
            self._stopping.wait(max(0.0, next_tick - time.monotonic()))

    def _tick(self, opener: _Worker, end: float) -> None:
        """Ask all that are idle, wait for those that are not overdue, publish what is there."""
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
            self._publish(self._nvml.assemble(reader.reading(self._deadline) for reader in self._readers))

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

    def _wait_for(self, workers: Sequence[_Worker], end: float) -> None:
        def over() -> bool:
            return self._stopping.is_set() or all(worker.busy_since is None for worker in workers)

        with self._done:
            self._done.wait_for(over, max(0.0, end - time.monotonic()))

    def _publish(self, reading: ServerReading) -> None:
        self._latest = reading
        if not self._first.done():
            self._first.set_result(None)
