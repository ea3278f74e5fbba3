"""Running plays, and what they say at their end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster_image import ROOT

from script.lib.places import Places

_LINE = re.compile(r"^(?P<host>\S+)\s+:((?: \w+=\d+\s*)+)$", re.MULTILINE)
_ENVIRONMENT = "IDLHUB_TEST_ANSIBLE"


@dataclass(frozen=True)
class Recap:
    """How a play ended on one machine."""

    ok: int
    changed: int
    failed: int
    unreachable: int


@dataclass(frozen=True)
class Played:
    """A play that ended: its status, what it printed, how it ended on each machine, and how long it took."""

    status: int
    output: str
    hosts: Mapping[str, Recap]
    seconds: float

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks changed something on each machine."""
        return {host: recap.changed for host, recap in self.hosts.items()}


def programs() -> Path:
    """Return the folder of Ansible's programs: as IDLHUB_TEST_ANSIBLE says, else the checkout's own."""
    given = os.environ.get(_ENVIRONMENT)
    folder = Path(given) if given else Places(ROOT, ROOT / ".state").ansible / "bin"
    assert (folder / "ansible-playbook").exists(), f"Ansible is not in {folder}; script/test installs it"
    return folder


def play(playbook: str, inventory: Path, *arguments: str, timeout_seconds: float = 1800) -> Played:
    """Run a play of ``ansible/`` as an admin does; what it prints is shown as it comes."""
    folder = ROOT / "ansible"
    binaries = programs()
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    env |= {"PATH": f"{binaries}:{env['PATH']}", "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "LC_ALL": "C.UTF-8"}
    # A task is shown even when its machine hangs.
    env |= {"PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "1"}
    command = [str(binaries / "ansible-playbook"), "-i", str(inventory), playbook, *arguments]
    started = time.monotonic()
    lines: list[str] = []
    into = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=folder, env=env, text=True, **into) as process:
        deadline = threading.Timer(timeout_seconds, process.kill)
        deadline.start()
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            lines.append(line)
        deadline.cancel()
    output = "".join(lines)
    return Played(process.returncode, output, _recap(output), time.monotonic() - started)


def _recap(output: str) -> dict[str, Recap]:
    _, _, end = output.partition("PLAY RECAP")
    found = {}
    for match in _LINE.finditer(end):
        counts = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", match.group(2))}
        found[match["host"]] = Recap(*(counts[name] for name in ("ok", "changed", "failed", "unreachable")))
    return found
