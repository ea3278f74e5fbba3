"""Ways below a home that lead nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl_hub.homes import safe
from idl_hub.homes.safe import Owner, PathError, held

ME = Owner(os.geteuid(), os.getegid())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "grades").write_text("1.0")
    made = tmp_path / "homes" / "alice"
    (made / "week1").mkdir(parents=True)
    (made / "week1" / "notebook.ipynb").write_text("{}")
    return made


def read(home: Path, path: str) -> bytes:
    account, parts = safe.open_account(home.parent, home.name), safe.parts_of(path)
    with held(account) as base, held(safe.open_file(base, parts)) as file:
        return os.read(file, 100)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_below_a_home_is_read(home: Path) -> None:
    assert read(home, "week1/notebook.ipynb") == b"{}"


@pytest.mark.parametrize("path", ["..", "../bob", "/etc/passwd", "a//b", "a/", "./a", "a/../../b", "a\0b", "x" * 256])
def test_a_path_that_leads_out_of_a_home_is_no_path(path: str) -> None:
    with pytest.raises(PathError):
        safe.parts_of(path)


@given(st.text(max_size=40))
def test_whatever_is_taken_for_a_path_stays_below(path: str) -> None:
    try:
        parts = safe.parts_of(path)
    except (PathError, UnicodeEncodeError):
        return
    assert "/".join(parts) == path
    assert not {"", ".", ".."} & set(parts)


@pytest.mark.parametrize("account", ["", ".", "..", "bob/..", "../alice", "Alice", "-a", "a" * 40, "alice\n"])
def test_only_an_accounts_name_opens_a_home(home: Path, account: str) -> None:
    with pytest.raises(PathError):
        safe.open_account(home.parent, account)


def test_links_are_followed_nowhere(home: Path) -> None:
    secret = home.parents[1] / "secret"
    (home / "file").symlink_to(secret / "grades")
    (home / "folder").symlink_to(secret)
    (home / "week1" / "up").symlink_to("..")
    for path in ("file", "folder/grades", "week1/up/week1/notebook.ipynb"):
        with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
            read(home, path)
    (home.parent / "eve").symlink_to(secret)
    with pytest.raises(NotADirectoryError):
        safe.open_account(home.parent, "eve")


def test_a_folder_that_becomes_a_link_after_it_was_opened_stays_what_it_was(home: Path) -> None:
    with held(safe.open_account(home.parent, home.name)) as base, held(safe.open_folder(base, ("week1",))) as week:
        (home / "week1").rename(home / "old")
        (home / "week1").symlink_to(home.parents[1] / "secret")
        with held(safe.new_file(week, "mine", ME)):
            pass
    assert (home / "old" / "mine").exists()
    assert sorted(path.name for path in (home.parents[1] / "secret").iterdir()) == ["grades"]


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(home: Path) -> None:
    os.mkfifo(home / "pipe")
    with pytest.raises(OSError, match="not a file"):
        read(home, "pipe")


def test_what_is_made_has_owner_and_mode_and_no_rights_of_others(home: Path) -> None:
    with (
        held(safe.open_account(home.parent, home.name)) as base,
        held(safe.make_folder(base, "new", ME, 0o2755)) as folder,
        held(safe.new_file(folder, "run", ME, 0o4755)),
    ):
        pass
    for path in (home / "new", home / "new" / "run"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        assert path.stat().st_uid == ME.uid


def test_nothing_is_overwritten_and_no_link_is_written_through(home: Path) -> None:
    (home / "there").write_text("old")
    (home / "lead").symlink_to(home.parents[1] / "secret" / "new")
    with held(safe.open_account(home.parent, home.name)) as base:
        for name in ("there", "lead"):
            with pytest.raises(FileExistsError):
                safe.new_file(base, name, ME)
            with pytest.raises(FileExistsError):
                safe.make_folder(base, name, ME)
        with pytest.raises(NotADirectoryError):
            safe.ensure_folder(base, "lead", ME)
        with held(safe.ensure_folder(base, "week1", ME)):
            pass
    assert (home / "there").read_text() == "old"
    assert not (home.parents[1] / "secret" / "new").exists()


def test_no_descriptor_is_left_open(home: Path) -> None:
    before = descriptors()
    (home / "link").symlink_to("/")
    os.mkfifo(home / "pipe")
    read(home, "week1/notebook.ipynb")
    for path in ("link/etc", "pipe", "week1/none", "none/none"):
        with pytest.raises(OSError, match="Errno"):
            read(home, path)
    assert descriptors() == before
