"""The quiet hours: before the weekly deadline nothing is changed under the students."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from idl_hub.settings_servers import DAYS

if TYPE_CHECKING:
    from idl_hub.settings_servers import QuietSettings


def quiet_until(quiet: QuietSettings, now: datetime) -> datetime | None:
    """Return the deadline when `now` lies within the quiet hours before it, else None.

    The hours are counted as they pass, so that a change to or from summer time makes them neither more nor fewer.

    Parameters
    ----------
    now
        Aware of its time zone, whichever it is.

    Returns
    -------
    datetime or None
        In the time zone of the settings. At the deadline itself the quiet is over.

    Raises
    ------
    ValueError
        When `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("now has no time zone, so it says nothing about a deadline")
    if quiet.deadline is None:
        return None
    now = now.astimezone(UTC)  # differences within one zone would be those of its clocks, not of time
    deadline = _next_deadline(quiet.deadline, ZoneInfo(quiet.time_zone), now)
    return deadline if deadline.astimezone(UTC) - now <= timedelta(hours=quiet.hours) else None


def quiet_words(quiet: QuietSettings, now: datetime) -> str:
    """Return why nothing may be changed now, for people; empty when it may. Who refuses adds what to do."""
    until = quiet_until(quiet, now)
    if until is None:
        return ""
    day = f"{DAYS[until.weekday()]}, {until:%Y-%m-%d %H:%M} ({quiet.time_zone})"
    return f"Students work towards the deadline on {day}; until then nothing is changed under them."


def _next_deadline(weekly: str, zone: ZoneInfo, now: datetime) -> datetime:
    """Return the first deadline after `now`."""
    day, _, clock = weekly.partition(" ")
    at = time.fromisoformat(clock)
    today = now.astimezone(zone).date()
    # Yesterday as well: where clocks jump over midnight, its deadline may still be ahead.
    days = (today + timedelta(days=number) for number in range(-1, 9))
    moments = (_moment(one, at, zone) for one in days if DAYS[one.weekday()] == day)
    return next(moment for moment in moments if moment.astimezone(UTC) > now)


def _moment(day: date, at: time, zone: ZoneInfo) -> datetime:
    """Return when this day's clock shows this time: the later one, where it shows it twice or leaps over it."""
    both = (datetime.combine(day, at, zone).replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    return max(both).astimezone(zone)
