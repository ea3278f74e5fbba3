"""Programs of Debian packages at hand without being installed: installed, they would serve whoever reaches them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from script.lib.commands import CommandFailedError, explain, run
from script.lib.privileges import as_root

if TYPE_CHECKING:
    from pathlib import Path

    from script.lib.console import Step
    from script.lib.places import Places


def ensure_unpacked(step: Step, places: Places, package: str, program: str, folder: Path) -> None:
    """Have a program at hand: installed by somebody, or from its package, unpacked in a folder.

    Parameters
    ----------
    program
        Its name; it lies in ``usr/bin`` of the package.

    Raises
    ------
    SetupError
        When the package cannot be fetched.
    """
    if shutil.which(program) or (folder / "usr" / "bin" / program).exists():
        step.note = "there already"
        return
    step.say(f"fetching {package} with apt")
    unpacked, log = folder.with_name(f"{folder.name}.new"), places.setup_logs / f"{folder.name}.log"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    fetch = ["apt-get", "-q", "download", package]
    try:
        try:
            run(step, fetch, log, deadline_seconds=300, cwd=unpacked)
        except CommandFailedError:  # a fresh machine has no lists of packages
            run(step, as_root(["apt-get", "-q", "update"]), log, deadline_seconds=600)
            run(step, fetch, log, deadline_seconds=300, cwd=unpacked)
        [file] = unpacked.glob(f"{package}_*.deb")
        run(step, ["dpkg-deb", "--extract", str(file), str(unpacked)], log, deadline_seconds=300)
    except CommandFailedError as failure:
        raise explain(
            f"{package} could not be fetched", failure, log, f"Try it by hand: apt-get download {package}."
        ) from failure
    file.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    unpacked.rename(folder)
    step.note = f"{package} unpacked"
