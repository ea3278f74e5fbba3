"""The quiet hours before the weekly deadline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl_hub.quiet import quiet_until, quiet_words
from idl_hub.settings_servers import DAYS, QuietSettings

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ("Europe/Berlin", "UTC", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe", "Asia/Kathmandu")
DEFAULT = QuietSettings()

moments = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


@st.composite
def settings(draw: st.DrawFn, most_hours: int = 168) -> QuietSettings:
    hour, minute = draw(st.integers(0, 23)), draw(st.integers(0, 59))
    return QuietSettings(
        deadline=f"{draw(st.sampled_from(DAYS))} {hour:02d}:{minute:02d}",
        time_zone=draw(st.sampled_from(ZONES)),
        hours=draw(st.floats(0, most_hours)),
    )


def berlin(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("now", "quiet"),
    [
        ("2026-05-10 11:59:59", False),
        ("2026-05-10 12:00:00", True),
        ("2026-05-10 17:59:59", True),
        ("2026-05-10 18:00:00", False),
        ("2026-05-09 17:00:00", False),
    ],
)
def test_six_hours_before_the_deadline_are_quiet_and_the_deadline_ends_them(now: str, quiet: bool) -> None:
    assert quiet_until(DEFAULT, berlin(now)) == (berlin("2026-05-10 18:00") if quiet else None)


@pytest.mark.parametrize(
    ("begins", "deadline"),
    [
        # 18 hours before: clocks leap from 2 to 3 in the night, so the quiet begins an hour earlier by them
        ("2026-03-28 23:00", "2026-03-29 18:00"),
        # and they show the hour from 2 to 3 twice
        ("2026-10-25 01:00", "2026-10-25 18:00"),
    ],
)
def test_hours_are_counted_as_they_pass_when_summer_time_comes_or_goes(begins: str, deadline: str) -> None:
    long = QuietSettings(hours=18)
    begin = berlin(begins).astimezone(UTC)
    assert quiet_until(long, begin) == berlin(deadline)
    assert quiet_until(long, begin - timedelta(seconds=1)) is None


def test_a_deadline_that_the_clock_shows_twice_or_leaps_over_counts_at_its_later_reading() -> None:
    night = QuietSettings(deadline="Sunday 02:30")

    def ends(now: str) -> str:
        until = quiet_until(night, berlin(now))
        # By text: a moment whose clock shows it twice never equals one of another zone.
        return until.astimezone(UTC).isoformat() if until else ""

    assert ends("2026-10-25 02:00") == "2026-10-25T01:30:00+00:00"
    assert ends("2026-03-29 01:59") == "2026-03-29T01:30:00+00:00"


@given(settings(), moments)
def test_the_end_of_the_quiet_is_the_deadline_ahead_by_the_clock_of_its_zone(
    quiet: QuietSettings, now: datetime
) -> None:
    until = quiet_until(quiet, now)
    if until is None:
        return
    assert timedelta(0) < until.astimezone(UTC) - now <= timedelta(hours=quiet.hours)
    shown = f"{DAYS[until.weekday()]} {until:%H:%M}"
    leapt_over = until.utcoffset() != (until - timedelta(hours=1)).utcoffset()
    assert shown == quiet.deadline or leapt_over


@given(settings(most_hours=160), moments, st.floats(0, 167))
def test_quiet_is_exactly_when_the_next_deadline_is_no_further_than_the_hours(
    quiet: QuietSettings, some: datetime, hours_before: float
) -> None:
    deadline = quiet_until(quiet.model_copy(update={"hours": 168 + 2}), some)
    assert deadline is not None  # within a week, and an hour when the clocks change, there is always one
    now = deadline.astimezone(UTC) - timedelta(hours=hours_before)
    before = deadline.astimezone(UTC) - now
    expected = timedelta(0) < before <= timedelta(hours=quiet.hours)
    found = quiet_until(quiet, now)
    assert (found == deadline) if expected else (found is None or found != deadline)


@given(settings(), moments, st.sampled_from(ZONES))
def test_the_time_zone_in_which_now_is_told_does_not_matter(quiet: QuietSettings, now: datetime, zone: str) -> None:
    assert quiet_until(quiet, now) == quiet_until(quiet, now.astimezone(ZoneInfo(zone)))


@given(moments)
def test_without_a_deadline_or_without_hours_it_is_never_quiet(now: datetime) -> None:
    assert quiet_until(QuietSettings(deadline=None, hours=168), now) is None
    assert quiet_until(QuietSettings(hours=0), now) is None


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        quiet_until(DEFAULT, datetime(2026, 5, 10, 13))  # noqa: DTZ001 - that is the point


def test_people_read_until_when_and_where_that_is_the_time() -> None:
    assert quiet_words(DEFAULT, berlin("2026-05-10 13:00")) == (
        "Students work towards the deadline on Sunday, 2026-05-10 18:00 (Europe/Berlin); "
        "until then nothing is changed under them."
    )
    assert quiet_words(DEFAULT, berlin("2026-05-11 13:00")) == ""
