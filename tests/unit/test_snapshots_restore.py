"""What an earlier version brings back: never over anything, never out of the home."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshot_homes import World, world

from idl_hub.homes import safe, snapshots_compare
from idl_hub.homes.restore import Bounds, Restored, RestoreError, beside, restore
from idl_hub.homes.safe import held
from idl_hub.homes.snapshots_compare import Listing, Now

MARK = "Sunday 17.00"


@pytest.fixture
def here(tmp_path: Path) -> World:
    made = world(tmp_path)
    week = made.home("alice") / "week1"
    (week / "data").mkdir(parents=True)
    (week / "notebook.ipynb").write_text("first")
    (week / "notebook.ipynb").chmod(0o640)
    os.utime(week / "notebook.ipynb", (1_600_000_000, 1_600_000_000))
    (week / "data" / "train.csv").write_text("1,2,3")
    (made.home("alice") / ".hidden").write_text("hidden")
    (made.home("alice") / "lead").symlink_to("/etc/passwd")
    made.take()
    return made


def bring(here: World, path: str, bounds: Bounds | None = None, account: str = "alice") -> Restored:
    snapshots = here.snapshots
    with ExitStack() as open_:
        copy = open_.enter_context(held(snapshots.open(account, snapshots.of(account)[-1].name)))
        home = open_.enter_context(held(safe.open_account(here.folder / "homes", account)))
        return restore(copy, home, safe.parts_of(path), MARK, snapshots.owner, bounds)


def compare(here: World, path: str | None = None, **how: bool) -> Listing:
    snapshots = here.snapshots
    with ExitStack() as open_:
        copy = open_.enter_context(held(snapshots.open("alice", snapshots.of("alice")[-1].name)))
        home = open_.enter_context(held(safe.open_account(here.folder / "homes", "alice")))
        if path is None:
            return snapshots_compare.differences(copy, home, **how)
        return snapshots_compare.folder(copy, home, safe.parts_of(path))


def tree(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else ""
    return found


# -- what differs --------------------------------------------------------------------------------------------


def test_a_home_that_did_not_change_differs_in_nothing(here: World) -> None:
    (here.home("alice") / "new").write_text("only here")
    assert compare(here) == Listing((), complete=True)


def test_what_is_gone_or_changed_is_named_a_folder_that_is_gone_only_once(here: World) -> None:
    week = here.home("alice") / "week1"
    (week / "notebook.ipynb").write_text("second")
    (week / "data" / "train.csv").unlink()
    (week / "data").rmdir()
    (here.home("alice") / "lead").unlink()
    (here.home("alice") / ".hidden").unlink()
    found = [("/".join(entry.path), entry.kind, entry.now) for entry in compare(here).entries]
    assert found == [
        ("lead", "link", Now.GONE), ("week1/data", "folder", Now.GONE), ("week1/notebook.ipynb", "file", Now.CHANGED),
    ]  # fmt: skip
    assert next(entry.path for entry in compare(here, hidden=True).entries) == (".hidden",)


def test_a_folder_of_a_copy_is_listed_with_how_it_is_now(here: World) -> None:
    (here.home("alice") / "week1" / "notebook.ipynb").unlink()
    listing = compare(here, "week1")
    assert [(entry.path[-1], entry.kind, entry.now, entry.size_bytes) for entry in listing.entries] == [
        ("data", "folder", Now.THERE, 0), ("notebook.ipynb", "file", Now.GONE, 5),
    ]  # fmt: skip
    assert listing.entries[1].modified_at == 1_600_000_000
    (here.home("alice") / "week1").rename(here.home("alice") / "elsewhere")
    assert {entry.now for entry in compare(here, "week1").entries} == {Now.GONE}


def test_a_copy_is_looked_into_but_not_through_its_links(here: World) -> None:
    (here.home("alice") / "etc").symlink_to("/etc")
    here.take(later=1)
    for path in ("etc", "etc/ssl", "lead", "none", "week1/notebook.ipynb"):
        with pytest.raises(OSError, match="Errno"):
            compare(here, path)


def test_a_home_that_leads_elsewhere_is_not_compared_with_elsewhere(here: World) -> None:
    (here.home("alice") / "week1").rename(here.folder / "outside")
    (here.home("alice") / "week1").symlink_to(here.folder / "outside")
    assert [(entry.path, entry.now) for entry in compare(here).entries] == [(("week1",), Now.CHANGED)]
    assert {entry.now for entry in compare(here, "week1").entries} == {Now.GONE}


def test_many_differences_are_told_in_part_and_in_time(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        (here.home("alice") / f"file{number}").touch()
    here.take(later=1)
    for number in range(300):
        (here.home("alice") / f"file{number}").unlink()
    found = compare(here)
    assert (len(found.entries), found.complete) == (200, False)
    monkeypatch.setattr(snapshots_compare, "_LOOK_SECONDS", -1)
    copy = here.snapshots.open("alice", here.snapshots.of("alice")[-1].name)
    with held(copy), held(safe.open_account(here.folder / "homes", "alice")) as home:
        assert snapshots_compare.differences(copy, home, seconds=-1) == Listing((), complete=False)


# -- bringing back -------------------------------------------------------------------------------------------


def test_a_file_that_is_gone_is_put_back_as_it_was(here: World) -> None:
    file = here.home("alice") / "week1" / "notebook.ipynb"
    file.unlink()
    assert bring(here, "week1/notebook.ipynb") == Restored(("week1", "notebook.ipynb"), False, 1, 5)
    now = file.stat()
    assert file.read_text() == "first"
    assert (stat.S_IMODE(now.st_mode), now.st_mtime, now.st_uid) == (0o640, 1_600_000_000, here.snapshots.owner.uid)
    assert now.st_nlink == 1, "writing to it must not change the copy"


def test_a_file_that_changed_stays_and_the_earlier_one_comes_beside_it(here: World) -> None:
    week = here.home("alice") / "week1"
    (week / "notebook.ipynb").write_text("second")
    names = [bring(here, "week1/notebook.ipynb").path[-1] for _ in range(3)]
    assert names == [
        "notebook (from Sunday 17.00).ipynb", "notebook (from Sunday 17.00) 2.ipynb",
        "notebook (from Sunday 17.00) 3.ipynb",
    ]  # fmt: skip
    assert (week / "notebook.ipynb").read_text() == "second"
    assert {(week / name).read_text() for name in names} == {"first"}


def test_what_is_there_unchanged_is_left_alone(here: World) -> None:
    before = tree(here.home("alice"))
    assert bring(here, "week1/notebook.ipynb").entries == 0
    assert tree(here.home("alice")) == before


def test_a_folder_comes_back_with_all_that_is_in_it(here: World) -> None:
    before = tree(here.home("alice"))
    (here.home("alice") / "week1").rename(here.folder / "aside")
    assert bring(here, "week1").entries == 4
    assert tree(here.home("alice")) == before
    assert (here.home("alice") / "week1" / "data").stat().st_uid == here.snapshots.owner.uid
    assert bring(here, "week1").path == ("week1 (from Sunday 17.00)",)


def test_folders_on_the_way_are_made_again_and_are_the_students(here: World) -> None:
    (here.home("alice") / "week1").rename(here.folder / "aside")
    bring(here, "week1/data/train.csv")
    assert tree(here.home("alice") / "week1") == {"data": "", "data/train.csv": "1,2,3"}
    assert (here.home("alice") / "week1").stat().st_uid == here.snapshots.owner.uid


def test_a_link_comes_back_as_a_link(here: World) -> None:
    (here.home("alice") / "lead").unlink()
    bring(here, "lead")
    assert str((here.home("alice") / "lead").readlink()) == "/etc/passwd"


def test_an_empty_folder_or_a_dangling_link_in_the_way_is_not_replaced(here: World) -> None:
    home = here.home("alice")
    (home / "week1").rename(here.folder / "aside")
    (home / "week1").mkdir()
    assert bring(here, "week1").path == ("week1 (from Sunday 17.00)",)
    assert list((home / "week1").iterdir()) == []
    (home / ".hidden").unlink()
    (home / ".hidden").symlink_to(here.folder / "outside")
    assert bring(here, ".hidden").beside
    assert not (here.folder / "outside").exists()


# -- hostile homes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/tmp", "..", "../bob"])
def test_nothing_is_written_through_a_link(here: World, target: str) -> None:
    bob = here.home("bob")
    (here.home("alice") / "week1").rename(here.folder / "aside")
    (here.home("alice") / "week1").symlink_to(target)
    with pytest.raises(RestoreError, match=r"there is something else now\. Nothing was changed"):
        bring(here, "week1/data/train.csv")
    assert list(bob.iterdir()) == []


def test_a_folder_swapped_at_the_last_moment_still_gets_nothing_written_elsewhere(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = here.home("bob")
    week = here.home("alice") / "week1"
    (week / "notebook.ipynb").unlink()
    link = os.link

    def swap_first(*names: str, **how: int) -> None:
        if not week.is_symlink():
            week.rename(here.home("alice") / "moved")
            week.symlink_to(bob)
        link(*names, **how)

    monkeypatch.setattr(os, "link", swap_first)
    bring(here, "week1/notebook.ipynb")
    assert list(bob.iterdir()) == []
    assert (here.home("alice") / "moved" / "notebook.ipynb").read_text() == "first"


@pytest.mark.parametrize("path", ["", "none", "week1/none", "etc/passwd"])
def test_what_is_not_in_the_copy_is_not_brought_back(here: World, path: str) -> None:
    (here.home("alice") / "etc").symlink_to("/etc")
    here.take(later=1)
    before = tree(here.home("alice"))
    with pytest.raises(RestoreError):
        bring(here, path)
    assert tree(here.home("alice")) == before


# -- when it does not work -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("path", ["week1", "week1/data/train.csv"])
def test_when_the_home_is_full_it_is_told_and_the_home_is_as_it_was(
    here: World, monkeypatch: pytest.MonkeyPatch, number: int, path: str
) -> None:
    (here.home("alice") / "week1").rename(here.folder / "aside")
    before = tree(here.home("alice"))

    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RestoreError, match=r"not enough space in your home for .* Nothing was changed"):
        bring(here, path)
    assert tree(here.home("alice")) == before


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(entries=3), "too much for this page: these are too many files"),
        (Bounds(size_bytes=7), "too much for this page: it is too large"),
        (Bounds(seconds=-1), "too much for this page: it takes too long"),
        (Bounds(free_bytes=7), "not enough space in your home"),
    ],
)
def test_more_than_is_brought_back_at_once_is_refused_and_nothing_stays(
    here: World, bounds: Bounds, words: str
) -> None:
    (here.home("alice") / "week1").rename(here.folder / "aside")
    before = tree(here.home("alice"))
    with pytest.raises(RestoreError, match=words):
        bring(here, "week1", bounds)
    assert tree(here.home("alice")) == before


def test_no_descriptor_is_left_open(here: World) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    (here.home("alice") / "week1" / "notebook.ipynb").write_text("second")
    bring(here, "week1/notebook.ipynb")
    bring(here, "week1")
    for path in ("none", "week1/none"):
        with pytest.raises(RestoreError):
            bring(here, path)
    with pytest.raises(RestoreError):
        bring(here, "week1", Bounds(entries=1))
    compare(here)
    compare(here, "week1")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("notebook.ipynb", "notebook (from Sunday 17.00).ipynb"),
        ("model.tar.gz", "model.tar (from Sunday 17.00).gz"),
        ("Makefile", "Makefile (from Sunday 17.00)"),
        (".bashrc", ".bashrc (from Sunday 17.00)"),
        ("odd.", "odd (from Sunday 17.00)."),
    ],
)
def test_the_name_beside_says_when_it_is_from(name: str, expected: str) -> None:
    assert beside(name, MARK, 1) == expected


@given(st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & set(name)), st.integers(1, 100))
def test_every_name_beside_is_one_that_a_file_can_have_and_another_than_its_own(name: bytes, number: int) -> None:
    found = os.fsencode(beside(os.fsdecode(name), MARK, number))
    assert 0 < len(found) <= 255
    assert found != name
    assert b"/" not in found
