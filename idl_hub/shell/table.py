"""Plain text for people: aligned columns, moments, durations."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Return rows under their heads; columns named in `right` are set to the right."""
    widths = [max(len(row[number]) for row in [heads, *rows]) for number in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if head in right else cell.ljust(width)
            for head, cell, width in zip(heads, cells, widths, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join(line(cells) for cells in [heads, *rows])


def moment(seconds: float) -> str:
    """Return a time since 1970 in this machine's time zone."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def percent(ratio: float | None) -> str:
    """Return a ratio as a percentage; a dash when it is not known."""
    return "-" if ratio is None else f"{ratio:.0%}"


def gib(size_bytes: float | None) -> str:
    """Return a size; a dash when it is not known."""
    return "-" if size_bytes is None else f"{size_bytes / 2**30:.1f}"
