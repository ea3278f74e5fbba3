"""Doing the few things that need root: installing Debian packages and starting a Docker engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from script.lib.commands import CommandFailedError, ask, explain, run
from script.lib.console import SetupError, Step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class NoRootError(SetupError):
    """Neither root nor sudo is at hand."""


def as_root(command: Sequence[str]) -> list[str]:
    """Return the command as root runs it: as it is, or through sudo after asking for the password once.

    Raises
    ------
    NoRootError
        When this user is not root and may not use sudo.
    """
    if os.geteuid() == 0:
        return list(command)
    if shutil.which("sudo") is None:
        raise NoRootError(
            f"This needs root, you are not root, and there is no sudo: {' '.join(command)}",
            "Ask somebody with root to run that command once, then run this again.",
        )
    free = ask(["sudo", "-n", "true"])
    if free is None or free.returncode != 0:
        _ask_for_password(command)
    return ["sudo", "-n", *command]


def _ask_for_password(command: Sequence[str]) -> None:
    if sys.stdin.isatty():
        print(f"\nroot is needed for: {' '.join(command)}", flush=True)
        if subprocess.run(["sudo", "-v"], check=False).returncode == 0:
            return
    raise NoRootError(
        f"This needs root, and sudo did not allow it: {' '.join(command)}",
        "Run this in a terminal as a user who may use sudo, or as root.",
    )


def install_packages(step: Step, packages: Sequence[str], log: Path, *, if_known: Sequence[str] = ()) -> None:
    """Install Debian packages with apt-get.

    Parameters
    ----------
    if_known
        Packages that only some releases have; asked for after the lists were fetched, since a fresh
        machine has none.

    Raises
    ------
    SetupError
        When there is no apt-get, no root, or apt-get fails; the cause is named.
    """
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise SetupError(
            f"{names} cannot be installed: this system has no apt-get.",
            f"Install what corresponds to {names} with this system's own package manager.",
        )
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300", "-q", "-y"]
    try:
        # An apt-get that was killed leaves half-configured packages; this finishes them, else does nothing.
        run(step, as_root(["dpkg", "--configure", "-a"]), log, deadline_seconds=600)
        run(step, as_root([*apt, "update"]), log, deadline_seconds=600)
        wanted = [*packages, *filter(_is_known, if_known)]
        install = as_root([*apt, "install", "--no-install-recommends", *wanted])
        run(step, install, log, deadline_seconds=1800)
    except CommandFailedError as failure:
        raise explain(
            f"apt-get could not install {names}", failure, log, f"Try it by hand: sudo apt-get install {names}."
        ) from failure


def _is_known(name: str) -> bool:
    """Return whether apt knows a package of this name."""
    shown = ask(["apt-cache", "policy", name])
    return shown is not None and "Candidate:" in shown.stdout and "Candidate: (none)" not in shown.stdout
