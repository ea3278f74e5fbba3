"""The admin's guide, followed literally: its commands are run, the files that it says to edit are filled in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "howto" / "deploy.md"
INVENTORY = "ansible/inventory"
_ITEM = re.compile(r"^```sh\n(?P<command>.*?)^```$|^Edit `(?P<file>[^`]+)`", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A thing to do: a block of commands, or a file to edit."""

    command: str = ""
    edit: str = ""


@dataclass(frozen=True)
class Done:
    """A block of commands that was run, with all it printed."""

    command: str
    status: int
    output: str
    seconds: float


def steps(page: str) -> tuple[Step, ...]:
    """Return what a page says to do, in its order: blocks marked ``sh``, and lines that begin with ``Edit `FILE```."""
    return tuple(Step(match["command"] or "", match["file"] or "") for match in _ITEM.finditer(page))


def checkout(folder: Path) -> Path:
    """Return a copy of the checkout to follow the guide in, which uses the tools that are set up for this one."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".state").symlink_to(ROOT / ".state")
    return folder


def follow(folder: Path, filled_in: Path, *, timeout_seconds: float = 3600) -> list[Done]:
    """Do all that the guide says in a `checkout`, and return what was run; ends at a command that fails.

    Parameters
    ----------
    filled_in
        An inventory: what an admin makes of the example. Each file that the guide says to edit is taken from there,
        with the first one whatever lies beside it (keys, certificates).
    """
    done: list[Done] = []
    for step in steps(PAGE.read_text(encoding="utf-8")):
        if step.edit:
            _edit(folder, step.edit, filled_in)
        else:
            done.append(_run(folder, step.command, timeout_seconds))
            if done[-1].status:
                break
    return done


def _edit(folder: Path, file: str, filled_in: Path) -> None:
    assert (folder / file).is_file(), f"the guide says to edit {file}, which is not there"
    own = filled_in / Path(file).relative_to(INVENTORY)
    shutil.copy2(own, folder / file)
    for path in filled_in.rglob("*"):
        beside = folder / INVENTORY / path.relative_to(filled_in)
        if path.is_file() and not beside.exists():
            beside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, beside)


def _run(folder: Path, command: str, timeout_seconds: float) -> Done:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    env |= {"PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "1"}
    started = time.monotonic()
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    sys.stdout.write(ended.stdout)
    return Done(command, ended.returncode, ended.stdout, time.monotonic() - started)
