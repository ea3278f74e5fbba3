"""What is remembered of a GPU's load: an average for placement, an hour of points for the map."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

AVERAGE_SECONDS = 60.0
"""Time constant of the average: after so long a change has come in by 63 %, after three times that by 95 %."""
DAY_SECONDS = 86400.0
POINT_SECONDS = 10
POINTS = 360
"""An hour. One GPU's points take 3 KB, whatever happens."""
_UNKNOWN = math.nan


def averaged(
    previous: float | None, value: float | None, seconds: float, over_seconds: float = AVERAGE_SECONDS
) -> float | None:
    """Return an exponentially weighted average carried on by one value.

    Parameters
    ----------
    previous
        The average so far; None before the first value.
    value
        What held during these seconds; None when it is not known, which changes nothing.
    seconds
        Since the value before. None or less than none have passed: nothing changes.
    over_seconds
        The time constant.
    """
    if value is None or previous is None:
        return value if previous is None else previous
    if seconds <= 0:
        return previous
    return value + (previous - value) * math.exp(-seconds / over_seconds)


@dataclass(frozen=True, slots=True)
class Point:
    """Ten seconds of a GPU."""

    at: float
    """When they began; seconds since the epoch, by the hub's clock."""
    utilization_ratio: float | None
    """Mean of what was read; None when nothing was."""
    memory_used_bytes: int | None
    """The last that was read."""


class History:
    """The last hour, in a ring of fixed size."""

    __slots__ = ("_count", "_memory", "_newest", "_sum", "_utilization")

    def __init__(self) -> None:
        self._newest: int | None = None
        """Which ten seconds since the epoch are being filled."""
        self._sum, self._count = 0.0, 0
        self._utilization = array("f", [_UNKNOWN]) * POINTS
        self._memory = array("f", [_UNKNOWN]) * POINTS

    def add(self, at: float, utilization_ratio: float | None, memory_used_bytes: int | None) -> None:
        """Take in what was read at a time; what is older than the newest point is left out."""
        number = int(at // POINT_SECONDS)
        if self._newest is not None and number < self._newest and self._newest - number < POINTS:
            return
        self._go_to(number)
        slot = number % POINTS
        if utilization_ratio is not None:
            self._sum += utilization_ratio
            self._count += 1
            self._utilization[slot] = self._sum / self._count
        if memory_used_bytes is not None:
            self._memory[slot] = memory_used_bytes

    def points(self, now: float) -> tuple[Point, ...]:
        """Return the last hour, oldest first, from the first point of which anything is known."""
        last = int(now // POINT_SECONDS)
        if self._newest is None:
            return ()
        numbers = range(max(last, self._newest) - POINTS + 1, last + 1)
        found = [self._point(number) for number in numbers]
        known = (place for place, point in enumerate(found) if point.utilization_ratio is not None)
        return tuple(found[next(known, len(found)) :])

    def _point(self, number: int) -> Point:
        at, slot = float(number * POINT_SECONDS), number % POINTS
        if self._newest is None or not self._newest - POINTS < number <= self._newest:
            return Point(at, None, None)
        utilization, memory = self._utilization[slot], self._memory[slot]
        return Point(
            at,
            None if math.isnan(utilization) else utilization,
            None if math.isnan(memory) else int(memory),
        )

    def _go_to(self, number: int) -> None:
        """Empty what lies between the newest point and this one; the clock may also have been set back."""
        if number == self._newest:
            return
        passed = POINTS if self._newest is None or number < self._newest else min(number - self._newest, POINTS)
        for step in range(passed):
            slot = (number - step) % POINTS
            self._utilization[slot] = self._memory[slot] = _UNKNOWN
        self._newest, self._sum, self._count = number, 0.0, 0
