"""What of the shared folders a student's container sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docker.types import Mount

from idl_hub.homes.store import MARKER

if TYPE_CHECKING:
    from idl_hub.settings_servers import HomeSettings

HOME_IN_CONTAINER = "/home/student"
_MARKER_IN_CONTAINER = "/run/idl_hub/homes"


def home_mounts(homes: HomeSettings, account: str) -> list[Mount]:
    """Return the mounts of one account: its own home; nothing when homes are Docker volumes.

    Mounts of this kind are refused by the engine where the folder is missing: a server on which the shared
    folders are not mounted never gets an empty home in their place. The marker comes along because a folder with
    the account's name may lie on the server's own disk, below where the homes should be mounted.
    """
    if homes.directory is None:
        return []
    return [
        Mount(HOME_IN_CONTAINER, str(homes.directory / account), type="bind"),
        Mount(_MARKER_IN_CONTAINER, str(homes.directory / MARKER), type="bind", read_only=True),
    ]
