"""What JupyterLab is told of a home, and what it may delete there."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from idl_hub.homes import space
from idl_hub.lab import home as lab_home
from idl_hub.lab.home import FILE_SYSTEM, HomeLook, HomeWatch, for_environment
from idl_hub.spawners import home as spawner_home

MIB = 2**20


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "model.h5").write_bytes(b"x" * 50 * MIB)
    (tmp_path / "data.csv").write_bytes(b"x" * 10 * MIB)
    (tmp_path / "notes.txt").write_bytes(b"x")
    for number in range(3):
        cached = tmp_path / ".cache" / "pip" / str(number)
        cached.mkdir(parents=True)
        (cached / "wheel").write_bytes(b"x" * (MIB // 4))
    return tmp_path


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def look_until(watch: HomeWatch, state: str) -> HomeLook:
    """Look until the home is in this state; counting may take longer than a look waits."""
    async with asyncio.timeout(30):
        while True:
            look = await watch.look()
            if look is not None and look.state == state and (state == "ok" or look.largest is not None):
                return look


def test_hub_and_lab_mean_the_same() -> None:
    assert (lab_home.QUOTA_VARIABLE, lab_home.FILE_SYSTEM) == (spawner_home.QUOTA_VARIABLE, spawner_home.FILE_SYSTEM)


async def test_a_home_over_its_quota_is_full_and_what_fills_it_is_named(home: Path) -> None:
    watch = for_environment({"HOME": str(home), "IDLHUB_HOME_QUOTA": str(64 * MIB)})
    look = await look_until(watch, "full")
    assert look.limit_bytes == 64 * MIB
    assert look.used_bytes is not None
    assert look.used_bytes + look.free_bytes == 64 * MIB
    assert look.largest is not None
    assert [(item.path, item.is_folder) for item in look.largest] == [
        ("runs/model.h5", False),
        ("data.csv", False),
        (".cache", True),
    ]


async def test_what_was_deleted_is_not_listed_at_the_next_look(home: Path) -> None:
    watch = HomeWatch(str(home), str(64 * MIB))
    await look_until(watch, "full")
    await watch.delete(".cache")
    await watch.delete("runs/model.h5")
    look = await look_until(watch, "ok")
    assert look.largest is None
    assert look.used_bytes is not None
    assert look.used_bytes < 11 * MIB
    assert not (home / ".cache").exists()
    assert (home / "notes.txt").exists()


async def test_what_was_written_elsewhere_shows_in_time(home: Path) -> None:
    clock = Clock()
    watch = HomeWatch(str(home), str(128 * MIB), clock)
    while (first := await look_until(watch, "ok")).used_bytes is None:
        pass
    assert first.largest is None
    (home / "more").write_bytes(b"x" * 60 * MIB)
    clock.now += 301
    await look_until(watch, "full")


@pytest.mark.parametrize("path", ["", "..", "../other", "/etc/passwd", "runs/../../x", "runs//model.h5", "./data.csv"])
async def test_what_is_no_path_in_the_home_is_not_deleted(home: Path, path: str) -> None:
    with pytest.raises(ValueError, match="no file in your home"):
        await HomeWatch(str(home)).delete(path)


async def test_a_folder_that_is_no_rubbish_is_not_deleted(home: Path) -> None:
    with pytest.raises(OSError, match=r"Is a directory|not permitted"):
        await HomeWatch(str(home)).delete("runs")
    assert (home / "runs" / "model.h5").exists()


async def test_rubbish_that_is_a_link_leads_to_nothing_being_deleted(home: Path) -> None:
    os.renames(home / ".cache", home / "kept")
    (home / ".cache").symlink_to(home / "kept")
    with pytest.raises(OSError, match="symbolic link"):
        await HomeWatch(str(home)).delete(".cache")
    assert len(list((home / "kept").rglob("wheel"))) == 3


async def test_without_a_quota_the_disk_alone_counts_and_nothing_is_counted(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "disk_of", lambda _: space.Disk(10**12, 10**11))
    monkeypatch.setattr(space, "count_used", lambda *_: pytest.fail("nobody asked for it"))
    look = await HomeWatch(str(home)).look()
    assert look is not None
    assert (look.state, look.used_bytes, look.limit_bytes, look.free_bytes) == ("ok", None, None, 10**11)


async def test_a_limit_of_the_file_system_is_asked_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "disk_of", lambda _: space.Disk(5 * 2**30, 100 * MIB))
    look = await HomeWatch(str(home), FILE_SYSTEM).look()
    assert look is not None
    assert (look.state, look.used_bytes, look.limit_bytes) == ("nearly_full", 5 * 2**30 - 100 * MIB, 5 * 2**30)


async def test_a_disk_that_hangs_holds_nobody_up_and_what_was_known_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_home, "_PATIENCE_SECONDS", 0.05)
    watch = HomeWatch(str(home))
    known = await watch.look()
    back = threading.Event()
    really = space.disk_of

    def hang(folder: int | str) -> space.Disk:
        back.wait(30)
        return really(folder)

    monkeypatch.setattr(space, "disk_of", hang)
    for _ in range(4):
        assert await asyncio.wait_for(watch.look(), 5) == known
    back.set()
    monkeypatch.setattr(lab_home, "_PATIENCE_SECONDS", 20)
    assert await watch.look() is not None
