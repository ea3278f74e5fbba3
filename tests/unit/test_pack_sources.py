"""What the deployment copies to the hub to build images from."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from images.builder import agent, hub, inputs

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "ansible" / "roles" / "images" / "files" / "pack_sources.py"


@pytest.fixture(scope="module")
def pack_sources() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pack_sources", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Sources, and what lies beside them in the folder of somebody who works there."""
    for name in (
        *("setup.py", "README.md", "script/image", "idl_hub/cli.py", "docs/page.md", "settings.yml"),
        *("idl_hub/__pycache__/cli.pyc", "idl_hub.egg-info/PKG-INFO", "images/.cache/x", "images/student/Dockerfile~"),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "script" / "image").chmod(0o755)
    return tmp_path


SOURCES = ["README.md", "idl_hub/cli.py", "script/image", "setup.py"]


def git(checkout: Path, *words: str) -> None:
    subprocess.run(["git", "-C", checkout, *words], check=True, capture_output=True, timeout=30)


def packed(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {entry.name: entry for entry in archive}


def test_without_git_all_sources_are_packed_and_nothing_that_programs_leave_behind(
    pack_sources: ModuleType, checkout: Path
) -> None:
    found = packed(pack_sources.pack(checkout))
    assert sorted(found) == SOURCES
    assert {name: entry.mode for name, entry in found.items() if entry.mode != 0o644} == {"script/image": 0o755}


def test_with_git_the_files_that_it_knows_are_packed_as_they_lie_there(
    pack_sources: ModuleType, checkout: Path
) -> None:
    git(checkout, "init", "--quiet")
    git(checkout, "add", *SOURCES, "docs")
    (checkout / "idl_hub" / "not_added.py").write_text("")
    (checkout / "idl_hub" / "cli.py").write_text("changed since")
    (checkout / "README.md").unlink()
    found = packed(pack_sources.pack(checkout))
    assert sorted(found) == [name for name in SOURCES if name != "README.md"]
    assert found["idl_hub/cli.py"].size == len("changed since")


def test_equal_sources_have_one_sum_and_a_change_has_another(checkout: Path) -> None:
    def sum_of_sources() -> str:
        done = subprocess.run(
            [sys.executable, PROGRAM, checkout], check=True, capture_output=True, text=True, timeout=30
        )
        return done.stdout.strip()

    before = sum_of_sources()
    os.utime(checkout / "setup.py", (0, 0))
    assert sum_of_sources() == before
    (checkout / "script" / "image").chmod(0o644)
    assert sum_of_sources() != before


def test_this_checkout_gives_all_that_the_images_are_built_from(pack_sources: ModuleType, tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(pack_sources.pack(ROOT))) as archive:
        archive.extractall(tmp_path, filter="data")
    none = tmp_path / "no-certificates"
    for context in (inputs.student_context, agent.context, hub.context):
        assert set(context(tmp_path, none)) == set(context(ROOT, none)), "git must know every file of an image"
