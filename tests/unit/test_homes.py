"""Homes: made on a path that leads nowhere else, refused when they are not mounted, measured when they are full."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hubs import wait_for

from idl_hub.homes import store
from idl_hub.homes.patience import Patience, Silent
from idl_hub.homes.space import Disk, Item, State, count_used, find_largest, is_full, room
from idl_hub.homes.store import MARKER, Home, Homes, HomesError
from idl_hub.settings_servers import HomeSettings

MIB = 2**20
# The rights of others can be given by root alone; elsewhere the tests' own user owns the homes.
UID, GID = (1000, 1000) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
SUDO = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A folder of homes as `idl-hub homes init` makes it, that others may pass through."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "homes"
    folder.mkdir(mode=0o711)
    (folder / MARKER).touch()
    return folder


@pytest.fixture
def make(directory: Path) -> Callable[..., Homes]:
    """Make the store with settings."""

    def with_settings(*, call_seconds: float = 10, **settings: Any) -> Homes:
        given = HomeSettings(**({"directory": directory, "uid": UID, "gid": GID} | settings))
        return Homes(given, call_seconds=call_seconds)

    return with_settings


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def root(*command: str) -> None:
    subprocess.run([*SUDO, *command], check=True)


@contextmanager
def swapping(place: Path, outside: Path) -> Iterator[None]:
    """Put a link, a folder and nothing in this place, in turn and as fast as can be."""
    process = subprocess.Popen([sys.executable, "-c", _SWAP, str(place), str(outside)])
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a small file system of its own on a folder."""
    folder.mkdir(exist_ok=True)
    options = f"size={size_bytes},mode=711,uid={UID},gid={GID}"
    root("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield folder
    finally:
        root("umount", str(folder))


_SWAP = """
import os, sys
from contextlib import suppress
place, outside = sys.argv[1:]
while True:
    with suppress(OSError):
        os.symlink(outside, place)
    with suppress(OSError):
        os.unlink(place)
    with suppress(OSError):
        os.mkdir(place)
    with suppress(OSError):
        os.rmdir(place)
"""
_PREPARE = """
import asyncio, sys
from idl_hub.homes.store import Homes
from idl_hub.settings_servers import HomeSettings
asyncio.run(Homes(HomeSettings(directory=sys.argv[1])).prepare("student2"))
"""
_DEEP = """
import os
for _ in range(3000):
    os.mkdir("deep")
    os.chdir("deep")
with open("file", "wb") as out:
    out.write(b"x" * 2**21)
"""


def fill(file: Path, size_bytes: int) -> None:
    with file.open("wb") as out:
        out.write(b"x" * size_bytes)


# The folder


async def test_a_home_is_made_for_its_owner_alone(make: Callable[..., Homes], directory: Path) -> None:
    home = await make().prepare("student1")
    made = (directory / "student1").stat()
    assert home.path == directory / "student1"
    assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (UID, GID, 0o700)
    assert names(home.path) == []


async def test_a_home_that_is_there_keeps_its_files_and_gets_its_mode_back(
    make: Callable[..., Homes], directory: Path
) -> None:
    homes = make()
    await homes.prepare("student1")
    (directory / "student1" / "work.ipynb").write_text("{}")
    (directory / "student1").chmod(0o000)
    await homes.prepare("student1")
    assert (directory / "student1").stat().st_mode & 0o7777 == 0o700
    assert (directory / "student1" / "work.ipynb").read_text() == "{}"


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "/etc", "../student2", "Student", "a\n", "ä", "x" * 200, "a\0b"]
)
async def test_an_odd_name_is_refused_and_nothing_is_made(
    make: Callable[..., Homes], directory: Path, name: str
) -> None:
    with pytest.raises(HomesError, match="not the name of an account"):
        await make().prepare(name)
    assert names(directory) == [MARKER]
    assert names(directory.parent) == ["homes"]


async def test_a_link_in_the_place_of_a_home_is_never_followed(make: Callable[..., Homes], directory: Path) -> None:
    outside = directory.parent / "outside"
    outside.mkdir(mode=0o755)
    (directory / "student1").symlink_to(outside)
    (directory / "student2").symlink_to(directory.parent / "not-there-yet")
    for account in ("student1", "student2"):
        with pytest.raises(HomesError, match="is a link or a file, not a folder"):
            await make().prepare(account)
    assert outside.stat().st_mode & 0o7777 == 0o755
    assert not (directory.parent / "not-there-yet").exists()


async def test_a_link_that_comes_and_goes_during_the_look_changes_nothing_outside(
    make: Callable[..., Homes], directory: Path
) -> None:
    outside = directory.parent / "outside"
    outside.mkdir(mode=0o755)
    homes = make()
    outcomes: set[type] = set()
    with swapping(directory / "student1", outside):
        while outcomes != {Home, HomesError}:  # until it met a folder, and something else
            try:
                outcomes.add(type(await homes.prepare("student1")))
            except HomesError as error:
                outcomes.add(type(error))
            now = outside.stat()
            assert (now.st_mode & 0o7777, now.st_uid, names(outside)) == (0o755, os.geteuid(), [])


async def test_a_home_of_somebody_else_is_refused_and_a_half_made_one_is_finished(
    make: Callable[..., Homes], directory: Path
) -> None:
    (directory / "student1").mkdir(mode=0o755)
    root("chown", "4242", str(directory / "student1"))
    with pytest.raises(HomesError, match=f"belongs to user 4242 and not to user {UID}"):
        await make().prepare("student1")
    # The hub was killed before it gave the folder away. Hubs that give folders away are root.
    (directory / "student2").mkdir(mode=0o700)
    root("chown", "0:0", str(directory / "student2"))
    root(sys.executable, "-c", _PREPARE, str(directory))
    assert (directory / "student2").stat().st_uid == 1000


# The mount


async def test_without_the_marker_the_homes_are_not_mounted_and_no_empty_home_is_made(
    make: Callable[..., Homes], directory: Path
) -> None:
    (directory / MARKER).unlink()
    with pytest.raises(HomesError, match=r"not mounted.*no server was started without them.*Tell the course's admins"):
        await make().prepare("student1")
    assert names(directory) == []
    root("rmdir", str(directory))
    with pytest.raises(HomesError, match="No such file or directory"):
        await make().prepare("student1")
    assert await make().look("student1") is None


async def test_homes_that_the_hub_has_no_right_to_are_not_taken_for_missing_ones(
    make: Callable[..., Homes], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open

    def squashed(path: Any, *more: Any, **how: Any) -> int:
        # What NFS makes of root where it is not root: nobody, who may pass through the folder and not read it.
        if path == directory:
            raise PermissionError(errno.EACCES, "Permission denied")
        return really(path, *more, **how)

    monkeypatch.setattr(os, "open", squashed)
    with pytest.raises(HomesError, match="has no right to") as refused:
        await make().prepare("student1")
    assert "no_root_squash" in refused.value.cause


async def test_a_file_server_that_hangs_refuses_in_time_and_is_used_again_when_it_is_back(
    make: Callable[..., Homes], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = directory.parent / "dead-server"
    os.mkfifo(pipe)
    opened = store.open_homes

    def hang(folder: Path) -> int:
        with pipe.open("rb"):  # until somebody opens the other end
            return opened(folder)

    homes = make(call_seconds=0.3)
    monkeypatch.setattr(store, "open_homes", hang)
    outcomes = await asyncio.gather(*(homes.prepare("student1") for _ in range(40)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {HomesError}
    assert all("do not answer" in str(outcome) for outcome in outcomes)
    hung = homes._calls.under_way
    assert hung == store._CALLS_AT_ONCE

    monkeypatch.setattr(store, "open_homes", opened)
    while homes._calls.under_way:  # each opening frees those that hang at that moment
        await asyncio.to_thread(_open_other_end, pipe)
        await asyncio.sleep(0)
    assert (await make().prepare("student1")).state is State.OK
    assert (await homes.prepare("student1")).path.is_dir()


def _open_other_end(pipe: Path) -> None:
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return  # nobody hangs just now


async def test_a_call_that_hangs_takes_a_place_until_it_returns() -> None:
    patience = Patience("test", 1)
    go = threading.Event()
    with pytest.raises(Silent):
        await patience.call(0.05, go.wait)
    with pytest.raises(Silent):
        await patience.call(0.05, lambda: "no place for it")
    go.set()
    assert await patience.call(10, lambda: "its turn") == "its turn"


async def test_what_a_call_raises_reaches_who_called() -> None:
    def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await Patience("test", 1).call(10, fail)


# Full


@pytest.mark.parametrize(
    ("used", "quota", "free_on_disk", "state", "free"),
    [
        (1000, 5000, 90_000, State.OK, 4000),
        (4600, 5000, 90_000, State.NEARLY_FULL, 400),
        (5000, 5000, 90_000, State.FULL, 0),
        (7000, 5000, 90_000, State.FULL, 0),
        (1000, 5000, 10, State.FULL, 10),
        (1000, 5000, 300, State.NEARLY_FULL, 300),
        (None, 5000, 90_000, State.OK, 90_000),
        (None, None, 2000, State.OK, 2000),
        (None, None, 900, State.NEARLY_FULL, 900),
        (None, None, 15, State.FULL, 15),
    ],
)
def test_room_is_what_quota_and_disk_leave(
    used: int | None, quota: int | None, free_on_disk: int, state: State, free: int
) -> None:
    disk = Disk(100_000 * MIB, free_on_disk * MIB)
    found = room(
        disk,
        used_bytes=None if used is None else used * MIB,
        quota_bytes=None if quota is None else quota * MIB,
    )
    assert (found.state, found.free_bytes) == (state, free * MIB)


def test_a_disk_without_free_files_or_that_refused_to_write_is_full() -> None:
    plenty = Disk(10**12, 10**12)
    assert room(plenty).state is State.OK
    assert room(Disk(10**12, 10**12, out_of_files=True)).state is State.FULL
    assert room(plenty, full="Disk quota exceeded").state is State.FULL
    assert is_full("Disk quota exceeded")
    assert is_full("No space left on device")
    assert not is_full("Read-only file system")


async def test_who_has_used_up_the_quota_is_told_so(make: Callable[..., Homes]) -> None:
    homes = make(quota=64 * MIB)
    home = await homes.prepare("student1")
    assert (home.state, home.quota_bytes) == (State.OK, 64 * MIB)
    assert home.used_bytes is not None
    assert home.used_bytes < MIB
    fill(home.path / "model.h5", 60 * MIB)
    full = await homes.prepare("student1")
    assert full.state is State.FULL
    assert full.used_bytes is not None
    assert full.used_bytes + full.free_bytes == 64 * MIB
    looked = await homes.look("student1")
    assert looked == full


async def test_a_full_disk_is_found_by_writing_and_asking(make: Callable[..., Homes], directory: Path) -> None:
    with small_disk(directory, 32 * MIB):
        (directory / MARKER).touch()
        home = await make().prepare("student1")
        assert (home.state, home.used_bytes) == (State.NEARLY_FULL, None)
        fill(directory / "rest", home.free_bytes)
        full = await make().prepare("student1")
        assert (full.state, full.free_bytes) == (State.FULL, 0)
        new = await make().prepare("student2")
        assert new.state is State.FULL
        assert names(home.path) == []


async def test_a_file_system_with_a_limit_for_the_home_is_asked_instead_of_counting(
    make: Callable[..., Homes], directory: Path
) -> None:
    with small_disk(directory / "student1", 100 * MIB) as place:
        fill(place / "data", 30 * MIB)
        home = await make(quota=64 * MIB).prepare("student1")
    assert (home.own_limit, home.quota_bytes, home.used_bytes) == (True, 100 * MIB, 30 * MIB)
    assert (home.free_bytes, home.state) == (70 * MIB, State.OK)


async def test_a_home_on_a_read_only_disk_is_refused(make: Callable[..., Homes], directory: Path) -> None:
    await make().prepare("student1")
    root("mount", "--bind", "-o", "ro", str(directory), str(directory))
    try:
        with pytest.raises(HomesError, match="Read-only file system"):
            await make().prepare("student1")
    finally:
        root("umount", str(directory))


# What takes the space


def test_the_largest_files_come_first_and_links_lead_nowhere(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "runs" / "a b").mkdir(parents=True)
    fill(home / "runs" / "a b" / "model\n.h5", 3 * MIB)
    fill(home / "data.csv", 5 * MIB)
    fill(home / "small.txt", 1000)
    for number in range(4):
        folder = home / ".cache" / "pip" / str(number)
        folder.mkdir(parents=True)
        fill(folder / "wheel", MIB // 2)
    outside = tmp_path / "outside"
    outside.mkdir()
    fill(outside / "secret", 50 * MIB)
    (home / "link").symlink_to(outside)
    (home / "again").symlink_to(home)
    os.link(home / "data.csv", home / "same.csv")
    with (home / "holes").open("wb") as sparse:
        sparse.truncate(10**12)
    found = find_largest(str(home), 30)
    assert [item.path for item in found] == ["data.csv", "same.csv", "runs/a b/model\n.h5", ".cache"]
    assert found[-1] == Item(".cache", 2 * MIB, is_folder=True)
    used = count_used(str(home), 30)
    assert used is not None
    assert 10 * MIB <= used < 11 * MIB  # the file with two names counts once, the holes and what is outside not at all


def test_a_tree_deeper_than_any_path_may_be_is_counted(tmp_path: Path) -> None:
    made = subprocess.run(
        ["python3", "-c", _DEEP],
        cwd=tmp_path,
    )
    assert made.returncode == 0
    try:
        used = count_used(str(tmp_path), 30)
        assert used is not None
        assert used >= 2 * MIB
        [item] = find_largest(str(tmp_path), 30)
        assert item.size_bytes == 2 * MIB
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "deep")], check=True)


def test_counting_that_takes_too_long_says_nothing_and_leaves_no_process(tmp_path: Path) -> None:
    assert count_used(str(tmp_path), 0) is None
    assert find_largest(str(tmp_path), 0) == ()
    wait_for(lambda: subprocess.run(["pgrep", "-P", str(os.getpid()), "-x", "du"]).returncode != 0, "du to be gone")
