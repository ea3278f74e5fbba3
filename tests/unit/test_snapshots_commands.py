"""The command idl-hub snapshots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from snapshot_homes import World, world

from idl_hub.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = world(tmp_path)
    (made.home("alice") / "notebook.ipynb").write_text("first")
    (made.home("bob") / "notes").write_text("of bob")
    file = tmp_path / "settings.yml"
    file.write_text(made.settings.model_dump_json(include={"homes"}))
    monkeypatch.setenv("IDLHUB_SETTINGS", str(file))
    return made


def test_copies_are_taken_listed_brought_back_and_dropped(here: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshots", "take"]) == 0
    assert capsys.readouterr().out.startswith("2 of 2 homes copied (0 MB anew), 0 unchanged, 0 failed, in ")
    assert main(["snapshots", "take"]) == 0
    assert capsys.readouterr().out.startswith("0 of 2 homes copied (0 MB anew), 2 unchanged, 0 failed, in ")

    assert main(["snapshots", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["account"], one["snapshots"]) for one in listed] == [("alice", 1), ("bob", 1)]
    assert all(one["oldest"] == one["newest"] <= one["checked"] for one in listed)
    assert main(["snapshots", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["alice", "1"]
    assert main(["snapshots", "list", "alice", "--json"]) == 0
    (copy,) = json.loads(capsys.readouterr().out)
    assert main(["snapshots", "list", "alice"]) == 0
    assert copy["name"] in capsys.readouterr().out

    (here.home("alice") / "notebook.ipynb").unlink()
    assert main(["snapshots", "restore", "alice", copy["name"], "notebook.ipynb"]) == 0
    assert "Brought back as notebook.ipynb" in capsys.readouterr().out
    assert (here.home("alice") / "notebook.ipynb").read_text() == "first"
    assert main(["snapshots", "restore", "alice", copy["name"], "notebook.ipynb"]) == 0
    assert "unchanged; nothing was done" in capsys.readouterr().out

    assert main(["snapshots", "prune"]) == 0
    assert capsys.readouterr().out == "0 copies dropped.\n"


def test_only_the_homes_that_are_named_are_copied(here: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshots", "take", "bob"]) == 0
    assert capsys.readouterr().out.startswith("1 of 1 homes copied")
    assert not (here.folder / "snapshots" / "alice").exists()
    assert main(["snapshots", "list", "alice"]) == 0
    assert "no earlier versions of the home of alice yet" in capsys.readouterr().out


def test_a_home_that_failed_is_named_and_shows_in_the_exit_status(
    here: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (here.folder / "homes" / "eve").symlink_to("/etc")
    assert main(["snapshots", "take"]) == 1
    told = capsys.readouterr()
    assert "2 of 3 homes copied" in told.out
    assert "1 failed" in told.out
    assert told.err == "eve: Not a directory (eve); its earlier copies stay.\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["take", "carol"], "There is no home of carol in"),
        (["list", "../bob"], "is not the name of an account"),
        (["restore", "alice", "2026-11-22T1700+0100", "notebook.ipynb"], "This earlier version is not there any more"),
        (["restore", "alice", "2026-11-22T1700+0100", "../bob/notes"], "This is not the path of a file or folder"),
        (["restore", "alice", "../bob", "notes"], "This earlier version is not there any more"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_failing_exit(
    here: World, capsys: pytest.CaptureFixture[str], command: list[str], words: str
) -> None:
    assert main(["snapshots", *command]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("idl-hub snapshots: ")
    assert words in told.err
    assert told.err.count("\n") == 1


def test_the_folder_is_made_once_and_never_where_a_disk_should_be_mounted(
    here: World, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here.folder / "snapshots"
    (folder / ".idl_hub-snapshots").unlink()
    folder.rmdir()
    assert main(["snapshots", "take"]) == 1
    assert "run `idl-hub snapshots init` once" in capsys.readouterr().err
    if folder.parent.stat().st_dev == Path("/").stat().st_dev:
        assert main(["snapshots", "init"]) == 1
        assert "lies on the disk of /" in capsys.readouterr().err
        assert not folder.exists()
    assert main(["snapshots", "init", "--own-disk"]) == 0
    assert main(["snapshots", "take"]) == 0
