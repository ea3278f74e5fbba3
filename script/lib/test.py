"""script/test: installs what tests need, runs every check, and sums up."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from script.lib import cards, containers, environments
from script.lib.commands import environment
from script.lib.console import Console, SetupError
from script.lib.engine import EngineUnavailableError, NeedsGroupError, ensure_engine, rerun_in_group
from script.lib.locks import only_setup
from script.lib.places import ROOT, Places, prepare
from script.lib.privileges import install_packages
from script.lib.unpacked import ensure_unpacked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from script.lib.console import Step

_WITHOUT_ENGINE = ("tests/unit",)
_WITH_ENGINE = ("tests/docker", "tests/servers", "tests/browser", "tests/ansible", "tests/benchmarks")
_LONG = ("tests/long",)


@dataclass(frozen=True)
class Outcome:
    """How one part ended."""

    name: str
    passed: bool
    seconds: float
    remark: str = ""


@dataclass(frozen=True)
class Missing:
    """A part that could not run, and why."""

    name: str
    reason: str


def parse(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Return whether the long tests run too, and the arguments meant for pytest."""
    parser = argparse.ArgumentParser(
        prog="script/test",
        description="Installs what tests need and runs everything. Further arguments go to pytest; "
        "with any, only pytest runs.",
    )
    parser.add_argument("--long", action="store_true", help="also what is too long for each change")
    given, rest = parser.parse_known_args(arguments)
    return given.long, [word for word in rest if word != "--"]


def main() -> int:
    """Set up, run every part, sum up; return the exit status."""
    os.environ.pop("PYTHONPATH", None)  # it led to this module and is nothing for the programs started here
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    long, arguments = parse(sys.argv[1:])
    console = Console()
    try:
        places = prepare(ROOT, None)
        no_engine = _set_up(console, places)
        return _run(console, places, long=long, arguments=arguments, no_engine=no_engine)
    except NeedsGroupError as needed:
        console.line(f"The engine does not let you in yet ({needed}); continuing with the group of its socket.")
        try:
            rerun_in_group([str(ROOT / "script" / "test"), *sys.argv[1:]])
        except SetupError as error:
            console.line(error.text())
            return 1
    except SetupError as error:
        console.line(error.text())
        return 1
    except KeyboardInterrupt:
        console.line("Stopped.")
        return 130


def _set_up(console: Console, places: Places) -> str:
    """Install what tests need; return why no engine can run here, or nothing."""
    no_engine = ""
    with ExitStack() as held:
        with console.step("Other runs") as step:
            held.enter_context(only_setup(places.tools, step))
            step.note = "none at work"
        with console.step("Docker engine") as step:
            try:
                ensure_engine(step, places)
            except EngineUnavailableError as error:
                step.note = "none can run here"
                no_engine = str(error)
        with console.step("Python packages") as step:
            environments.ensure_hub_environment(step, places, with_tests=True)
        with console.step("Proxy") as step:
            node = environments.ensure_proxy(step, places)
        with console.step("Ansible") as step:
            environments.ensure_ansible(step, places)
        if not no_engine:
            with console.step("Page tests") as step:
                environments.ensure_page_tests(step, places, node)
        with console.step("Debian packages") as step:
            _ensure_programs(step, places, with_browser=not no_engine)
        with console.step("Prometheus") as step:
            ensure_unpacked(step, places, "prometheus", "promtool", places.prometheus)
        if not no_engine:
            with console.step("Registry") as step:
                ensure_unpacked(step, places, "docker-registry", "docker-registry", places.registry)
        with console.step("Simulated GPUs") as step:
            step.note = cards.ensure_simulator(step, places).name
        if not no_engine:
            with console.step("Student image") as step:
                containers.ensure_image(step, places)
            with console.step("Service images") as step:
                containers.ensure_service_images(step, places)
            with console.step("Server image") as step:
                containers.ensure_server_image(step, places)
            with console.step("Network") as step:
                containers.ensure_network(step)
    return no_engine


def _ensure_programs(step: Step, places: Places, *, with_browser: bool) -> None:
    is_there = {
        "shellcheck": shutil.which("shellcheck") is not None,
        "postgresql": any(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")),
    }
    if with_browser:
        is_there["chromium"] = shutil.which("chromium") is not None
        # With certutil, Chromium is told whom to trust.
        is_there["libnss3-tools"] = shutil.which("certutil") is not None
    missing = [package for package, there in is_there.items() if not there]
    if missing:
        step.say(f"installing {' '.join(missing)} with apt")
        install_packages(step, missing, places.setup_logs / "packages.log")
    step.note = f"{', '.join(is_there)}: " + (f"installed {', '.join(missing)}" if missing else "there already")


def _run(console: Console, places: Places, *, long: bool, arguments: Sequence[str], no_engine: str) -> int:
    chosen, missing = _choose(places, long=long, no_engine=no_engine)
    outcomes = [] if arguments else [_check(console, places, *check) for check in _checks(places)]
    outcomes.append(_pytest(console, places, chosen, arguments, long=long))
    return _sum_up(console, outcomes, missing)


def _choose(places: Places, *, long: bool, no_engine: str) -> tuple[list[str], list[Missing]]:
    """Return the folders of tests that can run here, and those that cannot."""
    needing = [
        folder
        for folder in (*_WITH_ENGINE, *(_LONG if long else ()))
        if any((places.root / folder).glob("**/test_*.py"))
    ]
    if no_engine:
        reason = f"no Docker engine can run here: {no_engine}"
        return list(_WITHOUT_ENGINE), [Missing(folder, reason) for folder in needing]
    return [*_WITHOUT_ENGINE, *needing], []


def _checks(places: Places) -> list[tuple[str, list[str]]]:
    """Return the checks beside pytest: a name and a command each."""
    venv = places.venv / "bin"
    return [
        ("ruff check", [str(venv / "ruff"), "check", "."]),
        ("ruff format", [str(venv / "ruff"), "format", "--check", "."]),
        ("mypy", [str(venv / "mypy"), "-p", "idl_hub", "-p", "script.lib"]),
        ("shellcheck", ["shellcheck", "--external-sources", *_shell_scripts(places.root)]),
        ("ansible-lint", [str(places.ansible / "bin" / "ansible-lint"), "--strict"]),
    ]


def _shell_scripts(root: Path) -> list[str]:
    """Return every shell script of the checkout, by suffix or first line."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={root}", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [name for name in listed.stdout.splitlines() if _is_shell_script(root / name)]


def _is_shell_script(path: Path) -> bool:
    if not path.is_file() or path.is_symlink() or path.suffix == ".j2":  # templates become scripts elsewhere
        return False
    with path.open("rb") as file:
        first = file.readline(80)
    return path.suffix == ".sh" or (first.startswith(b"#!") and first.rstrip().endswith((b"/sh", b"bash")))


def _check(console: Console, places: Places, name: str, command: Sequence[str]) -> Outcome:
    console.line(f"\n=== {name}")
    started = time.monotonic()
    env = environment(PATH=f"{Path(command[0]).parent}:{os.environ.get('PATH', '')}")
    folder = places.root / "ansible" if name == "ansible-lint" else places.root
    code = subprocess.run(command, cwd=folder, env=env, check=False, timeout=900).returncode
    return Outcome(name, code == 0, time.monotonic() - started)


def _pytest(
    console: Console, places: Places, folders: Sequence[str], arguments: Sequence[str], *, long: bool
) -> Outcome:
    console.line("\n=== pytest")
    report = places.tools / "pytest.xml"
    report.unlink(missing_ok=True)
    named = any((places.root / word.split("::")[0]).exists() for word in arguments)
    command = [str(places.venv / "bin" / "python"), "-m", "pytest", f"--junitxml={report}", *arguments]
    command += [] if named else list(folders)
    command += [] if long or named else ["-m", "not long"]
    started = time.monotonic()
    env = environment(PATH=f"{places.venv / 'bin'}:{os.environ.get('PATH', '')}")
    code = subprocess.run(command, cwd=places.root, env=env, check=False).returncode  # pytest has its own timeouts
    seconds = time.monotonic() - started
    return Outcome("pytest", code == 0, seconds, _per_folder(report))


def _per_folder(report: Path) -> str:
    """Return tests and seconds per folder, from pytest's report."""
    if not report.exists():
        return "no report was written"
    tests: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        folder = ".".join(case.get("classname", "").split(".")[:2])
        tests[folder] += 1
        seconds[folder] += float(case.get("time", 0))
    return ", ".join(f"{folder} {tests[folder]} in {seconds[folder]:.0f} s" for folder in sorted(tests))


def _sum_up(console: Console, outcomes: Sequence[Outcome], missing: Sequence[Missing]) -> int:
    console.line(f"\n=== Summary after {console.elapsed_seconds():.0f} s")
    for outcome in outcomes:
        verdict = "passed" if outcome.passed else "FAILED"
        console.line(f"{verdict}  {outcome.name:<14} {outcome.seconds:7.1f} s  {outcome.remark}")
    if missing:
        console.line("\nCould not run on this machine:")
        for part in missing:
            console.line(f"    {part.name}: {part.reason}")
    in_ci = os.environ.get("CI", "").lower() in {"1", "true"}
    if missing and in_ci:
        console.line("FAILED: with CI=true everything must run.")
    return 0 if all(outcome.passed for outcome in outcomes) and not (missing and in_ci) else 1


if __name__ == "__main__":
    sys.exit(main())
