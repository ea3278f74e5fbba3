"""The base images: Debian 12 (or another), pulled where a registry answers, else made from Debian's packages."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .failure import ImageError
from .steps import run_step

if TYPE_CHECKING:
    from .engine import Engine

SUITE = "bookworm"
NAME = f"idl-hub/base:{SUITE}"
PULL_SECONDS = 60.0
INSTALL_SECONDS = 600.0
DEBOOTSTRAP_SECONDS = 900.0
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def ensure(engine: Engine, *, fresh: bool, suite: str = SUITE) -> str:
    """Return the base image's id; get it when it is missing or ``fresh`` asks for a new one."""
    name = f"idl-hub/base:{suite}"
    known = engine.image_id(name)
    if known and not fresh:
        return known
    if not _pull(engine, f"debian:{suite}-slim", name):
        _make(engine, suite, name)
    made = engine.image_id(name)
    if not made:
        raise ImageError(f"The base image {name} is gone right after it was made. Does something remove images?")
    return made


def _pull(engine: Engine, pulled: str, name: str) -> bool:
    try:
        run_step(
            engine.reporter,
            f"Pull {pulled}",
            [engine.docker, "pull", pulled],
            deadline_seconds=PULL_SECONDS,
        )
    except ImageError:
        engine.reporter.say(f"  Pull {pulled}: no registry answered; it is made from Debian's packages instead")
        return False
    engine.tag(pulled, name)
    return True


def _make(engine: Engine, suite: str, name: str) -> None:
    _install_mmdebstrap(engine, name)
    with tempfile.TemporaryDirectory(prefix="idl-hub-base-") as folder:
        archive = Path(folder) / "base.tar"
        run_step(
            engine.reporter,
            "Make the base image with mmdebstrap",
            [
                "mmdebstrap",
                "--variant=minbase",
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                # Debian's own keys, also where the host is no Debian.
                f"--keyring={KEYRING}",
                suite,
                str(archive),
            ],
            deadline_seconds=DEBOOTSTRAP_SECONDS,
        )
        run_step(
            engine.reporter,
            "Import the base image",
            [engine.docker, "import", "--change", 'CMD ["bash"]', str(archive), name],
            deadline_seconds=INSTALL_SECONDS,
        )


def _install_mmdebstrap(engine: Engine, name: str) -> None:
    if shutil.which("mmdebstrap") and KEYRING.exists():
        return
    if not shutil.which("apt-get"):
        raise ImageError(
            "The base image can neither be pulled (no registry answered) nor made (mmdebstrap is missing, "
            f"and without apt it cannot be installed).\nInstall mmdebstrap, or load an image {name} with `docker load`."
        )
    may_install = [] if os.geteuid() == 0 else ["sudo"]
    if may_install and not shutil.which("sudo"):
        raise ImageError(
            "mmdebstrap, which makes the base image, is missing, and installing it takes root's rights.\n"
            "Have `apt install mmdebstrap debian-archive-keyring` run by root, then run this again."
        )
    packages = ["mmdebstrap", "debian-archive-keyring"]
    for what, arguments in (
        ("Update the package lists", ["update", "-q"]),
        ("Install mmdebstrap", ["install", "-y", "-q", *packages]),
    ):
        run_step(engine.reporter, what, [*may_install, "apt-get", *arguments], deadline_seconds=INSTALL_SECONDS)
