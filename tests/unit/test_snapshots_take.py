"""Copies of homes: whole or not there, cheap, and safe against what students put into their homes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from snapshot_homes import World, world

from idl_hub.homes import safe
from idl_hub.homes.mounts import home_mounts
from idl_hub.homes.snapshots import Snapshots, kept_by
from idl_hub.homes.snapshots_copy import Copier
from idl_hub.homes.snapshots_folder import SnapshotsError, ensure_snapshot_folder
from idl_hub.homes.store import Homes


@pytest.fixture
def here(tmp_path: Path) -> World:
    made = world(tmp_path)
    (made.home("alice") / "week1").mkdir()
    (made.home("alice") / "week1" / "notebook.ipynb").write_text("first")
    return made


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# -- what a copy is ---------------------------------------------------------------------------------------


def test_a_copy_has_content_times_modes_owner_and_links(here: World) -> None:
    home = here.home("alice")
    script = home / "run.sh"
    script.write_text("#!/bin/sh")
    script.chmod(0o750)
    os.utime(script, ns=(1_600_000_000_123_456_789, 1_600_000_000_987_654_321))
    (home / "latest").symlink_to("week1/notebook.ipynb")
    (home / "nowhere").symlink_to("/etc/shadow")
    made = here.take()["alice"]
    assert (made.fault, made.unchanged) == ("", False)
    (copy,) = here.copies("alice")
    assert copy.name == "2026-11-22T1700+0100"
    assert tree(copy) == tree(home)
    assert (copy / "week1" / "notebook.ipynb").read_text() == "first"
    kept = (copy / "run.sh").stat()
    assert (stat.S_IMODE(kept.st_mode), kept.st_mtime_ns, kept.st_uid) == (
        0o750, 1_600_000_000_987_654_321, script.stat().st_uid,
    )  # fmt: skip
    assert [str((copy / name).readlink()) for name in ("latest", "nowhere")] == [
        "week1/notebook.ipynb", "/etc/shadow",
    ]  # fmt: skip


def test_only_what_changed_takes_space_again(here: World) -> None:
    (here.home("alice") / "data.bin").write_bytes(os.urandom(100_000))
    here.take()
    (here.home("alice") / "week1" / "notebook.ipynb").write_text("second")
    assert here.take(later=1)["alice"].tally.copied_bytes == len("second")
    first, second = here.copies("alice")
    assert (first / "data.bin").stat().st_ino == (second / "data.bin").stat().st_ino
    texts = [(copy / "week1" / "notebook.ipynb").read_text() for copy in (first, second)]
    assert texts == ["first", "second"]


def test_a_copy_shares_nothing_with_the_home(here: World) -> None:
    here.take()
    file = here.home("alice") / "week1" / "notebook.ipynb"
    with file.open("r+") as opened:
        opened.write("FIRST")
    (copy,) = here.copies("alice")
    assert (copy / "week1" / "notebook.ipynb").read_text() == "first"


@pytest.mark.parametrize("change", ["content", "new", "gone", "mode", "link", "empty folder"])
def test_a_home_is_copied_anew_when_anything_changed_and_else_not(here: World, change: str) -> None:
    home = here.home("alice")
    (home / "lead").symlink_to("a")
    here.take()
    assert here.take(later=1)["alice"].unchanged
    assert len(here.copies("alice")) == 1
    assert here.snapshots.checked_at("alice") == here.now

    notebook = home / "week1" / "notebook.ipynb"
    if change == "content":
        notebook.write_text("FIRST")
    elif change == "new":
        (home / "week1" / "more").touch()
    elif change == "gone":
        notebook.unlink()
    elif change == "mode":
        notebook.chmod(0o400)
    elif change == "link":
        (home / "lead").unlink()
        (home / "lead").symlink_to("b")
    else:
        (home / "week2").mkdir()
    assert not here.take(later=1)["alice"].unchanged
    assert len(here.copies("alice")) == 2


def test_caches_and_the_copies_themselves_are_left_out(here: World) -> None:
    home = here.home("alice")
    for folder in (".cache/pip", ".snapshots/old", "lib/__pycache__", ".local/share/Trash/files", "work/.cache"):
        (home / folder).mkdir(parents=True)
        (home / folder / "file").touch()
    (home / "big").mkdir()
    (home / "big" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# mine")
    (home / "not-tagged").mkdir()
    (home / "not-tagged" / "CACHEDIR.TAG").write_text("something else")
    here.take()
    (copy,) = here.copies("alice")
    assert tree(copy) == {
        "week1", "week1/notebook.ipynb", "lib", ".local", ".local/share", "work", "work/.cache", "work/.cache/file",
        "not-tagged", "not-tagged/CACHEDIR.TAG",
    }  # fmt: skip
    (home / ".cache" / "more").touch()
    assert here.take(later=1)["alice"].unchanged


# -- hostile homes ----------------------------------------------------------------------------------------


def test_pipes_odd_names_deep_folders_and_borrowed_rights_do_no_harm(here: World) -> None:
    home = here.home("alice")
    os.mkfifo(home / "pipe")
    odd = [b"\xff\xfe", "naïve \N{RIGHT-TO-LEFT OVERRIDE}gpj".encode(), b"-rf *", b"line\nbreak", b"x" * 255]
    for name in odd:
        Path(os.fsdecode(os.fsencode(home) + b"/" + name)).write_text("odd")
    (home / "root.sh").write_text("id")
    (home / "root.sh").chmod(0o6755)
    (home / "locked").mkdir()
    (home / "locked" / "inside").touch()
    (home / "locked" / "inside").chmod(0o400)
    (home / "locked").chmod(0o500)
    deep = os.open(home, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=deep)
        deeper = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)

    outcome = here.take()["alice"]
    assert outcome.fault == ""
    (copy,) = here.copies("alice")
    assert set(odd) <= {os.fsencode(path.name) for path in copy.iterdir()}
    assert not (copy / "pipe").exists()
    assert stat.S_IMODE((copy / "root.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((copy / "locked").stat().st_mode) == 0o700
    assert (copy / Path(*["d"] * 100)).is_dir()
    assert not (copy / Path(*["d"] * 101)).exists()
    assert here.take(later=1)["alice"].unchanged


def test_a_file_of_holes_takes_no_space_and_one_with_a_thousand_names_is_copied_once(here: World) -> None:
    home = here.home("alice")
    with (home / "holes").open("wb") as file:
        file.truncate(2**40)
        file.seek(2**30)
        file.write(b"data")
    (home / "name0").write_bytes(b"x" * 5000)
    for number in range(1, 1000):
        os.link(home / "name0", home / f"name{number}")
    outcome = here.take()["alice"]
    assert outcome.tally.copied_bytes < 100_000
    (copy,) = here.copies("alice")
    kept = (copy / "holes").stat()
    assert (kept.st_size, kept.st_blocks < 1000) == (2**40, True)
    with (copy / "holes").open("rb") as file:
        file.seek(2**30)
        assert file.read(4) == b"data"
    assert len({(copy / f"name{number}").stat().st_ino for number in range(1000)}) == 1

    (home / "more").touch()
    assert here.take(later=1)["alice"].tally.copied_bytes == 0


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_becomes_a_link_just_before_it_is_opened_leads_nowhere(
    here: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for account, text in (("alice", "mine"), ("bob", "secret of bob")):
        (here.home(account) / "work").mkdir()
        (here.home(account) / "work" / "answer").write_text(text)
    here.take("bob")
    path = Path("work") if what == "folder" else Path("work", "answer")
    opened = {"folder": safe.open_folder, "file": safe.open_file}[what]

    def swap_first(base: int, parts: Sequence[str] = ()) -> int:
        mine = here.home("alice") / path
        if list(parts) == [path.name] and not mine.is_symlink():
            mine.rename(here.folder / "aside")
            mine.symlink_to(here.home("bob") / path)
        return opened(base, parts)

    monkeypatch.setattr(safe, opened.__name__, swap_first)
    outcome = here.take("alice", later=1)["alice"]
    assert (here.home("alice") / path).is_symlink(), "it was swapped"
    assert outcome.fault == ""
    (copy,) = here.copies("alice")
    assert not [found for found in copy.rglob("answer") if found.read_text() != "mine"]
    assert not (copy / path).exists()


def test_nobodys_copies_are_below_somebody_elses_and_they_are_closed_to_others(here: World) -> None:
    here.home("bob")
    here.take()
    for account in ("alice", "bob"):
        assert stat.S_IMODE((here.folder / "snapshots" / account).stat().st_mode) == 0o700
        assert (here.folder / "snapshots" / account).stat().st_uid == here.snapshots.owner.uid


# -- when something goes wrong ------------------------------------------------------------------------------


def test_one_broken_home_does_not_stop_the_others(here: World) -> None:
    (here.folder / "homes" / "aaron").write_text("not a folder")
    (here.folder / "homes" / "eve").symlink_to(here.home("alice"))
    (here.folder / "homes" / "Not An Account").mkdir()
    (here.home("zoe") / "file").touch()
    outcomes = here.take()
    assert set(outcomes) == {"aaron", "alice", "eve", "zoe"}
    assert {name for name, outcome in outcomes.items() if outcome.fault} == {"aaron", "eve"}
    assert "Not a directory" in outcomes["eve"].fault
    assert len(here.copies("zoe")) == 1


def test_a_file_that_cannot_be_read_is_told_and_the_rest_is_copied(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here.home("alice") / "broken").write_text("bad sector")
    content = Copier._content

    def fail(self: Copier, original: int, copy: int, found: os.stat_result) -> os.stat_result:
        if found.st_size == len("bad sector"):
            raise OSError(errno.EIO, "Input/output error")
        return content(self, original, copy, found)

    monkeypatch.setattr(Copier, "_content", fail)
    outcome = here.take()["alice"]
    assert outcome.fault == "without 1 that cannot be read: broken: Input/output error"
    (copy,) = here.copies("alice")
    assert tree(copy) == {"week1", "week1/notebook.ipynb"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_when_the_disk_is_full_no_half_copy_stays_and_earlier_ones_do(
    here: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    here.take()
    (here.home("alice") / "big").write_bytes(b"x" * 3_000_000)
    write = os.pwrite

    def full(fd: int, data: bytes, position: int) -> int:
        if position > 1_000_000:
            raise OSError(number, os.strerror(number))
        return write(fd, data, position)

    monkeypatch.setattr(os, "pwrite", full)
    outcome = here.take(later=1)["alice"]
    assert outcome.snapshot is None
    assert outcome.fault == f"{os.strerror(number)}; its earlier copies stay"
    assert [copy.name for copy in here.copies("alice")] == ["2026-11-22T1700+0100"]
    assert list((here.folder / "snapshots" / ".partial").iterdir()) == []
    monkeypatch.undo()
    assert here.take(later=1)["alice"].fault == ""


def test_a_run_that_is_killed_leaves_no_half_copy_and_the_next_one_goes_on(here: World) -> None:
    here.take()
    (here.home("alice") / "new").write_text("new")
    killed = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from idl_hub.homes import snapshots\n"
        "from idl_hub.homes.snapshots import Snapshots\n"
        "from idl_hub.settings import load\n"
        "snapshots._move = lambda *_: os._exit(9)\n"
        "list(Snapshots(load([Path(sys.argv[1])])).take())\n"
    )
    file = here.folder / "settings.yml"
    file.write_text(here.settings.model_dump_json(include={"homes"}))
    assert subprocess.run([sys.executable, "-c", killed, str(file)], timeout=60).returncode == 9
    assert (here.folder / "snapshots" / ".partial" / "copy" / "new").exists(), "it was cut off at its end"
    assert len(here.copies("alice")) == 1
    assert here.take(later=1)["alice"].fault == ""
    assert len(here.copies("alice")) == 2
    assert list((here.folder / "snapshots" / ".partial").iterdir()) == []


def test_two_runs_do_not_work_at_the_same_time(here: World) -> None:
    with (here.folder / "snapshots" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for work in (here.take, here.snapshots.prune):
            with pytest.raises(SnapshotsError, match="Another `idl-hub snapshots` is at work"):
                work()
    assert here.take()["alice"].fault == ""


def test_a_home_that_takes_too_long_is_given_up(here: World) -> None:
    (here.home("bob") / "file").touch()
    slow = Snapshots(here.settings, lambda: here.now, home_seconds=-1)
    outcomes = list(slow.take())
    assert [outcome.account for outcome in outcomes] == ["alice", "bob"]
    assert all("minutes; its earlier copies stay" in outcome.fault for outcome in outcomes)


@pytest.mark.parametrize("gone", ["homes", "snapshots", "homes/.idl_hub-homes", "snapshots/.idl_hub-snapshots"])
def test_without_homes_or_the_disk_of_copies_nothing_is_made_nor_dropped(here: World, gone: str) -> None:
    here.take()
    (here.folder / gone).rename(here.folder / "away")
    with pytest.raises(SnapshotsError, match="mounted"):
        here.take(later=1)
    assert not (here.folder / gone).exists()


def test_a_name_that_has_no_home_is_told_before_anything_is_copied(here: World) -> None:
    with pytest.raises(SnapshotsError, match="There is no home of bob, carol in"):
        here.take("alice", "bob", "carol")
    assert not (here.folder / "snapshots" / "alice").exists()


def test_two_copies_in_one_minute_are_one(here: World) -> None:
    here.take()
    (here.home("alice") / "new").touch()
    assert "of this minute already" in here.take()["alice"].fault


# -- what is dropped -----------------------------------------------------------------------------------------


def test_copies_that_the_settings_keep_no_longer_are_dropped_with_each_new_one(tmp_path: Path) -> None:
    here = world(tmp_path, hours=2, days=3, weeks=0)
    counter = here.home("alice") / "counter"
    for hour in range(50):
        counter.write_text(str(hour))
        here.take(later=1)
    names = [copy.name for copy in here.copies("alice")]
    assert names == [
        "2026-11-22T2300+0100", "2026-11-23T2300+0100", "2026-11-24T1800+0100", "2026-11-24T1900+0100",
    ]  # fmt: skip
    assert [(copy / "counter").read_text() for copy in here.copies("alice")] == ["5", "29", "48", "49"]


def test_pruning_touches_nothing_but_copies(here: World) -> None:
    here.take()
    (here.home("alice") / "new").touch()
    here.take(later=1)
    (here.folder / "snapshots" / "alice" / "notes of the admin").mkdir()
    (here.folder / "snapshots" / "lost+found").mkdir()
    fewer = here.settings.homes.model_copy(update={"snapshots_kept": {"hours": 1}})
    here.settings = here.settings.model_copy(update={"homes": fewer})
    gone = here.snapshots.prune()
    assert [copy.name for copy in gone] == ["2026-11-22T1700+0100"]
    assert [path.name for path in here.copies("alice")] == ["2026-11-22T1800+0100", "notes of the admin"]
    assert (here.folder / "snapshots" / "lost+found").exists()


def test_copies_outlive_their_home(here: World) -> None:
    here.take()
    here.home("alice").rename(here.folder / "left the course")
    here.home("bob")
    here.take(later=24 * 365)
    assert len(here.copies("alice")) == 1


# -- for the container ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["nothing", "folder", "file", "link"])
def test_the_place_for_the_mount_is_made_whatever_the_student_put_there(here: World, there: str) -> None:
    place = here.home("alice") / ".snapshots"
    if there == "folder":
        place.mkdir()
    elif there == "file":
        place.write_text("mine")
    elif there == "link":
        place.symlink_to("/etc")
    for _ in range(2):
        ensure_snapshot_folder(here.settings.homes, "alice")
    assert place.is_dir()
    assert not place.is_symlink()
    aside = [path for path in here.home("alice").iterdir() if path.name.startswith(".snapshots-")]
    assert len(aside) == (there in {"file", "link"})
    assert (here.folder / "snapshots" / "alice").is_dir()


async def test_a_server_starts_without_them_when_their_disk_is_away(here: World) -> None:
    prepared = await Homes(here.settings.homes).prepare("alice")
    assert prepared.earlier_versions
    assert (here.folder / "snapshots" / "alice").is_dir()
    (here.folder / "snapshots").rename(here.folder / "away")
    prepared = await Homes(here.settings.homes).prepare("alice")
    assert not prepared.earlier_versions
    assert not (here.folder / "snapshots").exists()


def test_a_container_sees_its_own_copies_alone_and_cannot_write_there(here: World) -> None:
    homes = here.settings.homes
    shown = home_mounts(homes, "alice", earlier_versions=True)[-1]
    assert (shown["Source"], shown["Target"], shown["Type"], shown["ReadOnly"]) == (
        str(here.folder / "snapshots" / "alice"), "/home/student/.snapshots", "bind", True,
    )  # fmt: skip
    assert all(".snapshots" not in mount["Target"] for mount in home_mounts(homes, "alice"))


def test_hubs_without_a_folder_for_them_keep_none(here: World) -> None:
    without = here.settings.homes.model_copy(update={"snapshots": None})
    assert not kept_by(without)
    with pytest.raises(SnapshotsError, match=r"homes\.snapshots are not both set"):
        Snapshots(here.settings.model_copy(update={"homes": without}))
