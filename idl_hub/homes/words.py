"""Space in words, as students read it on the hub's pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idl_hub.homes.store import Home

_STEPS = (("TB", 2**40), ("GB", 2**30), ("MB", 2**20))


def size(size_bytes: float) -> str:
    """Return a size to read at a glance: "4.2 GB", "310 MB"; "0 MB" for less than half a one."""
    name, factor = next(((name, factor) for name, factor in _STEPS if size_bytes >= factor), _STEPS[-1])
    number = size_bytes / factor
    return f"{number:.1f} {name}" if number < 100 and name != "MB" else f"{number:.0f} {name}"


def of_limit(home: Home) -> str:
    """Return how much of what a student may have is used, in brackets; nothing where that is not known."""
    if home.used_bytes is None or home.quota_bytes is None:
        return ""
    return f" ({size(home.used_bytes)} of {size(home.quota_bytes)})"


def remainder(home: Home) -> str:
    """Return how much room there is in a home, as one sentence."""
    if home.state == "full":
        return (
            f"Your home is full{of_limit(home)}. Start your server and delete what you do not need: until then, "
            "there may be no room to save your work."
        )
    limit = f" of {size(home.quota_bytes)}" if home.quota_bytes is not None else ""
    return f"{size(home.free_bytes)}{limit} free in your home."
