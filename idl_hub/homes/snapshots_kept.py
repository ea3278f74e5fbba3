"""When a copy was taken, in its name and in words, and which copies are kept. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from idl_hub.settings_servers import DAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping
    from zoneinfo import ZoneInfo

_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d{4}[+-]\d{4}", re.ASCII)
_FORMAT = "%Y-%m-%dT%H%M%z"
_DAYS_BY_NAME = timedelta(days=6)
"""Within so many days the name of a day alone says which one is meant."""


@dataclass(frozen=True, slots=True, order=True)
class Snapshot:
    """A copy of one home as it was at a time."""

    taken_at: datetime
    name: str
    """Of its folder, such as ``2026-11-22T1740+0100``; the offset tells apart the hour that autumn has twice."""


def named(name: str) -> Snapshot | None:
    """Return what a folder's name says, None when it is not the name of a copy."""
    if not _NAME.fullmatch(name):
        return None
    try:
        return Snapshot(datetime.strptime(name, _FORMAT).astimezone(UTC), name)
    except (ValueError, OverflowError):
        return None


def taken(at: datetime, zone: ZoneInfo) -> Snapshot:
    """Return the copy that is taken now, with the time as people at the course read it."""
    minute = at.astimezone(zone).replace(second=0, microsecond=0)
    return Snapshot(minute.astimezone(UTC), minute.strftime(_FORMAT))


def words(at: datetime, now: datetime, zone: ZoneInfo) -> str:
    """Return when it was, as a person says it: ``Today 17:00``, ``Sunday 17:40``, ``22 November 17:40``."""
    then, today = at.astimezone(zone), now.astimezone(zone).date()
    return f"{_day(then, today - then.date())} {then:%H:%M}"


def _day(then: datetime, before: timedelta) -> str:
    if before == timedelta(0):
        return "Today"
    if before == timedelta(days=1):
        return "Yesterday"
    if timedelta(0) < before <= _DAYS_BY_NAME:
        return DAYS[then.weekday()]
    return f"{then.day} {then:%B}" if abs(before) < timedelta(days=300) else f"{then.day} {then:%B %Y}"


def mark(at: datetime, now: datetime, zone: ZoneInfo) -> str:
    """Return the same for the name of a file, where "Today" would soon be wrong: ``Sunday 17.40``."""
    then, today = at.astimezone(zone), now.astimezone(zone).date()
    before = today - then.date()
    day = DAYS[then.weekday()] if timedelta(0) <= before <= _DAYS_BY_NAME else _day(then, before)
    return f"{day} {then:%H.%M}"


def kept(copies: Iterable[Snapshot], rules: Mapping[str, int], zone: ZoneInfo) -> frozenset[Snapshot]:
    """Return which copies stay.

    The last copy of each hour, day and week is kept, for as many of them as `rules` says; hours, days and weeks
    without a copy do not count, so a home that nobody changes for a year still has its earlier versions. The newest
    copy always stays. Days and weeks are those of `zone`; hours are counted as they pass, so that the clock changes of
    spring and autumn make them neither more nor fewer.

    Parameters
    ----------
    rules
        ``hours``, ``days``, ``weeks`` -> how many.
    """
    periods: dict[str, Callable[[datetime], Hashable]] = {
        "hours": lambda at: at.timestamp() // 3600,
        "days": lambda at: at.astimezone(zone).date(),
        "weeks": lambda at: at.astimezone(zone).isocalendar()[:2],
    }
    newest_first = sorted(copies, reverse=True)
    stay = set(newest_first[:1])
    for kind, period in periods.items():
        seen: set[Hashable] = set()
        for copy in newest_first:
            if len(seen) >= rules.get(kind, 0):
                break
            if (one := period(copy.taken_at)) not in seen:
                seen.add(one)
                stay.add(copy)
    return frozenset(stay)
