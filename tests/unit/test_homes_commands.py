"""The command `idl-hub homes`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from idl_hub.cli import main
from idl_hub.homes.store import MARKER

UID, GID = (1000, 1000) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
QUOTA_BYTES = 64 * 2**20


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of homes that is not there yet, as the settings name it."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "srv" / "homes"
    homes = {"directory": str(folder), "uid": UID, "gid": GID, "quota": "64MiB"}
    settings = tmp_path / "settings.yml"
    settings.write_text(json.dumps({"homes": homes}))
    monkeypatch.setenv("IDLHUB_SETTINGS", str(settings))
    return folder


def test_the_disk_of_the_system_is_taken_only_when_asked_for(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk_of_system = Path("/var/lib/idl_hub-test-homes")
    settings = directory.parents[1] / "on-system.yml"
    settings.write_text(json.dumps({"homes": {"directory": str(on_disk_of_system)}}))
    monkeypatch.setenv("IDLHUB_SETTINGS", str(settings))
    assert main(["homes", "init"]) == 1
    assert "Mount the homes first" in capsys.readouterr().err
    assert not on_disk_of_system.exists()


def test_homes_that_are_made_can_be_used_and_made_again(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["homes", "init", "--own-disk"]) == 0
    assert "is ready for homes" in capsys.readouterr().out
    assert directory.stat().st_mode & 0o777 == 0o711
    assert main(["homes", "init", "--own-disk"]) == 0
    assert "was ready already" in capsys.readouterr().out
    assert main(["homes", "check"]) == 0
    out = capsys.readouterr().out
    assert "WRONG" not in out
    assert "with its marker" in out
    assert f"belongs to user {UID} and group {GID} works" in out
    assert [entry.name for entry in directory.iterdir()] == [MARKER]


def test_what_is_wrong_with_the_homes_is_said(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["homes", "check"]) == 1
    assert f"WRONG  {directory} is not mounted: No such file or directory" in capsys.readouterr().out
    directory.mkdir(parents=True)
    assert main(["homes", "check"]) == 1
    assert f"WRONG  {directory} is not mounted: {MARKER} is missing in it" in capsys.readouterr().out
    assert main(["homes", "init", "--own-disk"]) == 0
    directory.chmod(0o777)
    assert main(["homes", "check"]) == 1
    assert f"WRONG  others than root may write to {directory} itself" in capsys.readouterr().out


def test_homes_are_listed_by_their_space(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["homes", "init", "--own-disk"])
    capsys.readouterr()
    assert main(["homes", "usage"]) == 0
    assert capsys.readouterr().out == "There are no homes yet.\n"
    for name, megabytes in (("student1", 8), ("student2", 32), ("lost+found", 1)):
        (directory / name).mkdir()
        (directory / name / "data").write_bytes(b"x" * megabytes * 2**20)
    (directory / "student3").symlink_to("/usr")
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{UID}:{GID}", directory / "student1", directory / "student2"], check=True)
    assert main(["homes", "usage"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["HOME", "USED", "OF", "QUOTA"]
    assert [row.split() for row in rows[1:]] == [["student2", "32", "MB", "50%"], ["student1", "8", "MB", "13%"]]
    assert main(["homes", "usage", "--json"]) == 0
    [first, second] = json.loads(capsys.readouterr().out)
    assert first["name"] == "student2"
    assert 32 * 2**20 <= first["used_bytes"] < 33 * 2**20
    assert second["name"] == "student1"


def test_without_a_folder_of_homes_there_is_nothing_to_look_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.yml"
    settings.write_text("{}")
    monkeypatch.setenv("IDLHUB_SETTINGS", str(settings))
    for verb in ("init", "check", "usage"):
        assert main(["homes", verb]) == 1
        assert "homes.directory is not set" in capsys.readouterr().err
