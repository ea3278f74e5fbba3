"""An hour of a GPU's utilization as the map draws it: one point a minute."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from idl_hub.gpus.history import Point

MINUTES = 60
_UNKNOWN: tuple[int | None, ...] = (None,) * MINUTES


def by_minute(points: Iterable[Point], now: float) -> tuple[int | None, ...]:
    """Return the mean percentage of each of the last 60 full minutes, oldest first; None where nothing was read."""
    first = int(now // 60) - MINUTES
    read: dict[int, list[float]] = defaultdict(list)
    for point in points:
        if point.utilization_ratio is not None:
            read[int(point.at // 60) - first].append(point.utilization_ratio)
    return tuple(round(100 * sum(found) / len(found)) if (found := read[minute]) else None for minute in range(MINUTES))


class Curves:
    """The curves of all GPUs, drawn anew only when a minute is over.

    Parameters
    ----------
    history
        From a GPU's UUID to its last hour.
    """

    def __init__(self, history: Callable[[str], Sequence[Point]]) -> None:
        self._history = history
        self._minute = -1
        self._drawn: dict[str, tuple[int | None, ...]] = {}

    def of(self, uuid: str | None, now: float) -> tuple[int | None, ...]:
        """Return a GPU's curve as it is at `now`."""
        if uuid is None:
            return _UNKNOWN
        if int(now // 60) != self._minute:
            self._minute, self._drawn = int(now // 60), {}
        if uuid not in self._drawn:
            self._drawn[uuid] = by_minute(self._history(uuid), now)
        return self._drawn[uuid]
