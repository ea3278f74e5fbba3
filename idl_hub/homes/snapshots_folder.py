"""The folder of all copies, and what must be there before a container can show a student their own."""

from __future__ import annotations

import logging
import os
import stat
import time
from typing import TYPE_CHECKING

from idl_hub.homes import safe
from idl_hub.homes.patience import Patience, Silent
from idl_hub.homes.snapshots_tree import SNAPSHOTS_IN_HOME

if TYPE_CHECKING:
    from pathlib import Path

    from idl_hub.settings_servers import HomeSettings

log = logging.getLogger("idl_hub.homes")
MARKER = ".idl_hub-snapshots"
"""A file in the folder of all copies. The folder below a disk that is not mounted has none."""
_SECONDS = 3.0
_AT_ONCE = 8


class SnapshotsError(Exception):
    """No copies can be made or read; the message is for an admin."""


def open_snapshots(directory: Path) -> int:
    """Return the folder of all copies as a descriptor.

    Raises
    ------
    SnapshotsError
        It is missing or does not hold the marker: what should be mounted there is not.
    """
    why = f"{MARKER} is missing in it"
    try:
        folder = safe.open_root(directory)
    except OSError as error:
        why = error.strerror or str(error)
    else:
        try:
            if stat.S_ISREG(os.stat(MARKER, dir_fd=folder, follow_symlinks=False).st_mode):
                return folder
        except OSError as error:
            why = why if isinstance(error, FileNotFoundError) else str(error.strerror)
        os.close(folder)
    raise SnapshotsError(
        f"The folder of earlier versions, {directory} (homes.snapshots), is not there: {why}. Is its disk mounted? If "
        "it was never used before, run `idl-hub snapshots init` once; it is not made by itself, so that copies never "
        "fill another disk."
    )


def ensure_snapshot_folder(homes: HomeSettings, account: str) -> None:
    """Make the folder of somebody's copies, and the place in their home where they are mounted.

    What the student put into that place is moved aside, so that it does not stop their server from starting.

    Raises
    ------
    SnapshotsError, OSError
        When it cannot be made.
    """
    if homes.directory is None or homes.snapshots is None:
        return
    owner = safe.Owner(homes.uid, homes.gid)
    with safe.held(open_snapshots(homes.snapshots)) as every:
        os.close(safe.ensure_folder(every, account, owner))
    with safe.held(safe.open_account(homes.directory, account)) as home:
        try:
            os.close(safe.ensure_folder(home, SNAPSHOTS_IN_HOME, owner, 0o755))
        except OSError:
            aside = f"{SNAPSHOTS_IN_HOME}-{time.strftime('%Y-%m-%dT%H%M%S')}"
            os.rename(SNAPSHOTS_IN_HOME, aside, src_dir_fd=home, dst_dir_fd=home)
            os.close(safe.ensure_folder(home, SNAPSHOTS_IN_HOME, owner, 0o755))


class SnapshotFolders:
    """Makes these folders before a start, with a deadline: a server starts without them when their disk is away."""

    def __init__(self, homes: HomeSettings) -> None:
        self._homes = homes
        self._calls = Patience("earlier versions", _AT_ONCE)

    async def prepare(self, account: str) -> bool:
        """Return whether there is something to mount."""
        if self._homes.directory is None or self._homes.snapshots is None:
            return False
        try:
            await self._calls.call(_SECONDS, ensure_snapshot_folder, self._homes, account)
        except (SnapshotsError, OSError, Silent) as error:
            log.warning("The server of %s starts without earlier versions of its home: %s", account, error)
            return False
        return True
