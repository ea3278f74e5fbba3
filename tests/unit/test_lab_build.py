"""The built form of the JupyterLab extension is what its sources give."""

import json
from pathlib import Path

import pytest

from idl_hub.lab import build


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(900)
def test_building_it_anew_gives_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    anew, committed = files_of(build.build(tmp_path)), files_of(build.BUILT)
    assert sorted(anew) == sorted(committed), "run: python -m idl_hub.lab.build"
    assert [name for name in anew if anew[name] != committed[name]] == [], "run: python -m idl_hub.lab.build"


def test_it_is_built_for_the_jupyterlab_of_the_student_image() -> None:
    asked = json.loads((build.HERE / "package.json").read_text())
    lock = (Path(build.HERE).parents[1] / "images" / "student" / "tensorflow-cpu.lock").read_text().splitlines()
    (installed,) = [line.removeprefix("jupyterlab==") for line in lock if line.startswith("jupyterlab==")]
    minor = installed.rpartition(".")[0]
    assert asked["devDependencies"]["@jupyterlab/core-meta"].startswith(f"{minor}.")
    assert asked["dependencies"]["@jupyterlab/application"].startswith(f"~{minor}.")


def test_the_lock_names_no_address_and_checksums_of_all_that_linux_installs() -> None:
    lock = json.loads((build.HERE / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    without = [name for name, entry in packages.items() if "integrity" not in entry]
    assert [name for name in without if not name.startswith("node_modules/@rspack/binding-")] == []
    assert not {f"node_modules/@rspack/binding-linux-{kind}" for kind in ("x64-gnu", "arm64-gnu")} & set(without)


def test_without_node_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setattr(build.sys, "prefix", str(tmp_path))
    with pytest.raises(build.BuildError, match="Node"):
        build.build(tmp_path)
