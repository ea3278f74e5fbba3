"""What differs between two pictures: the only thing that travels every second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idl_hub.web.picture import Picture


def changes(before: Picture, after: Picture) -> dict[str, Any]:
    """Return the parts that differ.

    ``servers`` and ``gpus`` map a key to its changed values (all values for a new one, None for one that is gone);
    ``line`` and ``totals`` come whole.
    """
    found: dict[str, Any] = {}
    for part in ("servers", "gpus"):
        if different := _different(getattr(before, part), getattr(after, part)):
            found[part] = different
    if before.line != after.line:
        found["line"] = after.line
    if before.totals != after.totals:
        found["totals"] = after.totals
    return found


def _different(
    before: Mapping[str, dict[str, Any]], after: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any] | None]:
    different: dict[str, dict[str, Any] | None] = dict.fromkeys(before.keys() - after.keys())
    for key, values in after.items():
        known = before.get(key)
        if known is None:
            different[key] = values
        elif known != values:
            different[key] = {name: value for name, value in values.items() if known.get(name) != value}
    return different
