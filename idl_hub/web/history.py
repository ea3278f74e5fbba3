"""An hour of each GPU's utilization, in bounded memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

POINTS = 60
POINT_SECONDS = 60


@dataclass(slots=True)
class _Track:
    minute: int
    sum: float = 0.0
    count: int = 0
    points: deque[int | None] = field(default_factory=lambda: deque([None] * POINTS, POINTS))
    busy_at: float = 0.0


class History:
    """One mean a minute for the last hour, and since when a GPU has been idle."""

    def __init__(self) -> None:
        self._tracks: dict[str, _Track] = {}

    def add(self, now: float, readings: Iterable[tuple[str, float | None]]) -> None:
        """Take in the newest utilization (0 to 1, None when unknown) of each GPU; forget those not seen for an hour."""
        minute = int(now // POINT_SECONDS)
        for key, utilization_ratio in readings:
            track = self._tracks.get(key)
            if track is None:
                track = self._tracks[key] = _Track(minute, busy_at=now)
            _turn(track, minute)
            if utilization_ratio is not None:
                track.sum += utilization_ratio
                track.count += 1
                if utilization_ratio > 0:
                    track.busy_at = now
        for key in [key for key, track in self._tracks.items() if minute - track.minute > POINTS]:
            del self._tracks[key]

    def points(self, key: str) -> tuple[int | None, ...]:
        """Return the percentages of the last 60 full minutes, oldest first; None where nothing was read."""
        track = self._tracks.get(key)
        return tuple(track.points) if track else (None,) * POINTS

    def idle_seconds(self, key: str, now: float) -> float | None:
        """Return for how long no kernel was seen to run; None for a GPU never seen."""
        track = self._tracks.get(key)
        return max(0.0, now - track.busy_at) if track else None


def _turn(track: _Track, minute: int) -> None:
    """Close the minutes that are over."""
    if minute <= track.minute:
        return
    track.points.append(round(100 * track.sum / track.count) if track.count else None)
    track.points.extend([None] * min(minute - track.minute - 1, POINTS))
    track.minute, track.sum, track.count = minute, 0.0, 0
