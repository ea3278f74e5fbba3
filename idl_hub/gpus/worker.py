"""A thread for calls that may never return: nobody waits for it longer than they like."""

from __future__ import annotations

import logging
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Worker:
    """Does one blocking job, once for each request, in a thread of its own.

    Parameters
    ----------
    name
        Of the thread, for logs.
    job
        What to do; what it raises is logged.
    done
        Notified after each time that the job ended.
    """

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
