"""A server starts with its student's home, or not at all."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from idl_hub.homes.space import State
from idl_hub.homes.store import HomesError
from idl_hub.homes.words import of_limit
from idl_hub.spawners.host import UnfitHostError
from idl_hub.spawners.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from idl_hub.homes.store import Home, Homes

log = logging.getLogger("idl_hub.homes")

QUOTA_VARIABLE = "IDLHUB_HOME_QUOTA"
"""Bytes, or `FILE_SYSTEM` where the file system itself says it; for the part inside JupyterLab."""
FILE_SYSTEM = "file system"
_MISSING_SOURCE = "bind source path does not exist"


async def prepare(homes: Homes | None, account: str, say: Callable[[int, str], None]) -> Home | None:
    """Return the student's home, made where it is missing; None where homes are Docker volumes.

    Raises
    ------
    Refusal
        The homes are not mounted, do not answer, or this one cannot be used.
    """
    if homes is None:
        return None
    try:
        home = await homes.prepare(account)
    except HomesError as error:
        log.error("%s gets no server: %s", account, error)  # noqa: TRY400 - the words say it all
        raise Refusal(str(error), "homes", 503) from error
    if home.state is State.FULL:
        say(18, f"Your home is full{of_limit(home)}: your server starts so that you can delete what you do not need")
    return home


def environment(home: Home | None) -> dict[str, str]:
    """Return what a server must know of its home."""
    if home is None:
        return {}
    told = {}
    if home.quota_bytes is not None:
        told[QUOTA_VARIABLE] = FILE_SYSTEM if home.own_limit else str(home.quota_bytes)
    if home.state is State.FULL:
        told["IDLHUB_CLEAN_UP"] = "1"
    return told


def raise_if_missing(error: Exception, server: str) -> None:
    """Raise `UnfitHostError` when a server's engine says that it does not see the homes which the hub has prepared."""
    explanation = str(getattr(error, "explanation", "") or "")
    if _MISSING_SOURCE in explanation:
        path = explanation.rpartition(": ")[2]
        raise UnfitHostError(f"the homes are not mounted there: {path} is missing") from error
