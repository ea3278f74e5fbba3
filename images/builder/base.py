"""The base image: Debian 12, pulled where a registry answers, else made from Debian's packages."""

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

NAME = "idl-hub/base:bookworm"
PULLED = "debian:bookworm-slim"
PULL_SECONDS = 60.0
INSTALL_SECONDS = 600.0
DEBOOTSTRAP_SECONDS = 900.0
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def ensure(engine: Engine, *, fresh: bool) -> str:
    """Return the base image's id; get it when it is missing or ``fresh`` asks for a new one."""
    known = engine.image_id(NAME)
    if known and not fresh:
        return known
    if not _pull(engine):
        _make(engine)
    made = engine.image_id(NAME)
    if not made:
        raise ImageError(f"The base image {NAME} is gone right after it was made. Does something remove images?")
    return made


def _pull(engine: Engine) -> bool:
    try:
        run_step(
            engine.reporter,
            f"Pull {PULLED}",
            [engine.docker, "pull", PULLED],
            deadline_seconds=PULL_SECONDS,
        )
    except ImageError:
        engine.reporter.say(f"  Pull {PULLED}: no registry answered; it is made from Debian's packages instead")
        return False
    engine.tag(PULLED, NAME)
    return True


def _make(engine: Engine) -> None:
    _install_mmdebstrap(engine)
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
                "bookworm",
                str(archive),
            ],
            deadline_seconds=DEBOOTSTRAP_SECONDS,
        )
        run_step(
            engine.reporter,
            "Import the base image",
            [engine.docker, "import", "--change", 'CMD ["bash"]', str(archive), NAME],
            deadline_seconds=INSTALL_SECONDS,
        )


def _install_mmdebstrap(engine: Engine) -> None:
    if shutil.which("mmdebstrap") and KEYRING.exists():
        return
    if not shutil.which("apt-get"):
        raise ImageError(
            "The base image can neither be pulled (no registry answered) nor made (mmdebstrap is missing, "
            f"and without apt it cannot be installed).\nInstall mmdebstrap, or load {PULLED} with `docker load`."
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
