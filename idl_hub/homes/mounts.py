"""What of the shared folders a student's container sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docker.types import Mount

from idl_hub.homes.snapshots_tree import SNAPSHOTS_IN_HOME
from idl_hub.homes.store import MARKER

if TYPE_CHECKING:
    from idl_hub.settings_servers import HomeSettings

HOME_IN_CONTAINER = "/home/student"
_MARKER_IN_CONTAINER = "/run/idl_hub/homes"


def home_mounts(homes: HomeSettings, account: str, *, earlier_versions: bool = False) -> list[Mount]:
    """Return the mounts of one account: its own home; nothing when homes are Docker volumes.

    With `earlier_versions` also its own copies, read-only. All homes have the same owner: that a container shows one
    account's folders alone is what keeps others out of them.

    Mounts of this kind are refused by the engine where the folder is missing: a server on which the shared
    folders are not mounted never gets an empty home in their place. The marker comes along because a folder with
    the account's name may lie on the server's own disk, below where the homes should be mounted.
    """
    if homes.directory is None:
        return []
    mounts = [
        Mount(HOME_IN_CONTAINER, str(homes.directory / account), type="bind"),
        Mount(_MARKER_IN_CONTAINER, str(homes.directory / MARKER), type="bind", read_only=True),
    ]
    if earlier_versions and homes.snapshots is not None:
        place = f"{HOME_IN_CONTAINER}/{SNAPSHOTS_IN_HOME}"
        mounts.append(Mount(place, str(homes.snapshots / account), type="bind", read_only=True))
    return mounts
