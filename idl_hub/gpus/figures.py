"""How this server itself is doing: processors, memory, disks."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import psutil

from idl_hub.gpus.reading import Disk, ServerFigures
from idl_hub.gpus.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class _DiskReader:
    """Asks one file system, which may hang when it is on the network."""

    def __init__(self, path: Path, deadline: float) -> None:
        self._path = path
        self._deadline = deadline
        self._last = self._unread = Disk(str(path))
        self.done = threading.Condition()
        self.worker = Worker(f"disk {path}", self._read, self.done)

    def newest(self) -> Disk:
        """Return the last answer while it is not overdue, and have it asked again."""
        overdue = self.worker.busy_seconds() > self._deadline
        self.worker.request()
        return self._unread if overdue else self._last

    def _read(self) -> None:
        try:
            found = os.statvfs(self._path)
        except OSError:
            self._last = self._unread
        else:
            self._last = Disk(str(self._path), found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


class FigureReader:
    """Reads the server's figures; `read` never waits for a disk.

    Parameters
    ----------
    disks
        Folders whose file systems are looked at.
    deadline
        Seconds after which a disk that does not answer is reported without figures.
    """

    def __init__(self, disks: Sequence[Path] = (), *, deadline: float = 5.0) -> None:
        self._disks = [_DiskReader(path, deadline) for path in disks]
        self._cpu_count = psutil.cpu_count() or 1
        self._booted_at = psutil.boot_time()
        psutil.cpu_percent()  # what the first real one is compared with
        self._compared = False
        for disk in self._disks:
            disk.worker.request()

    def read(self) -> ServerFigures:
        """Return the figures as they are now; a disk's are those of the call before. To be used by one thread."""
        busy_percent = psutil.cpu_percent()
        memory = psutil.virtual_memory()
        load_averages = os.getloadavg()
        compared, self._compared = self._compared, True
        return ServerFigures(
            cpu_count=self._cpu_count,
            cpu_utilization_ratio=busy_percent / 100 if compared else None,
            load_average_1_minute=load_averages[0],
            load_average_5_minutes=load_averages[1],
            load_average_15_minutes=load_averages[2],
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
            booted_at=self._booted_at,
            disks=tuple(disk.newest() for disk in self._disks),
        )

    def stop(self) -> None:
        """Let the threads end, each when its disk has answered."""
        for disk in self._disks:
            disk.worker.stop()
