"""How the server itself is doing; a disk that hangs holds nobody up."""

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from idl_hub.gpus.figures import FigureReader
from idl_hub.gpus.reading import Disk, ServerFigures


def read_until(reader: FigureReader, index: int, disk: Disk) -> ServerFigures:
    end = time.monotonic() + 10
    while (figures := reader.read()).disks[index] != disk:
        assert time.monotonic() < end, figures
        time.sleep(0.01)
    return figures


def test_figures_are_those_of_this_server(tmp_path: Path) -> None:
    reader = FigureReader([tmp_path, tmp_path / "missing"])
    try:
        assert reader.read().cpu_utilization_ratio is None, "there is nothing yet to compare with"
        end = time.monotonic() + 10
        while (figures := reader.read()).disks[0].total_bytes is None:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        reader.stop()
    usage = psutil.disk_usage(str(tmp_path))
    assert figures.disks[0].total_bytes == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    assert figures.disks[0].free_bytes == pytest.approx(usage.free, rel=0.05)
    assert figures.disks[1] == Disk(str(tmp_path / "missing"))
    assert figures.memory_total_bytes == psutil.virtual_memory().total
    assert figures.cpu_count == os.cpu_count()
    assert figures.cpu_utilization_ratio is not None
    assert 0 <= figures.cpu_utilization_ratio <= 1
    assert figures.load_average_1_minute == pytest.approx(os.getloadavg()[0], abs=1)


def test_a_disk_that_hangs_is_reported_without_figures_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = os.statvfs(tmp_path)
    network_works = threading.Event()
    network_works.set()

    def statvfs(path: Path) -> os.statvfs_result:
        if path == tmp_path / "nfs":
            network_works.wait(60)
        return answer

    monkeypatch.setattr(os, "statvfs", statvfs)
    well = (answer.f_blocks * answer.f_frsize, answer.f_bavail * answer.f_frsize)
    reader = FigureReader([tmp_path, tmp_path / "nfs"], deadline=0.1)
    try:
        read_until(reader, 1, Disk(str(tmp_path / "nfs"), *well))
        network_works.clear()
        start = time.monotonic()
        figures = read_until(reader, 1, Disk(str(tmp_path / "nfs")))
        assert time.monotonic() - start < 5
        assert figures.disks[0] == Disk(str(tmp_path), *well)
        network_works.set()
        read_until(reader, 1, Disk(str(tmp_path / "nfs"), *well))
    finally:
        network_works.set()
        reader.stop()
