"""When a copy was taken, in words, and which copies are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl_hub.homes.snapshots_kept import Snapshot, kept, mark, named, taken, words

BERLIN = ZoneInfo("Europe/Berlin")
RULES = {"hours": 48, "days": 14, "weeks": 8}
NOW = datetime(2026, 11, 24, 17, 42, tzinfo=BERLIN)  # a Tuesday

times = st.integers(1_767_000_000, 1_830_000_000).map(lambda at: datetime.fromtimestamp(at, UTC))  # 2026 and 2027
copies = st.lists(times.map(lambda at: taken(at, BERLIN)), max_size=200)
rules = st.fixed_dictionaries({kind: st.integers(0, 60) for kind in RULES})


def hourly(start: datetime, hours: int) -> list[Snapshot]:
    return [taken(start.astimezone(UTC) + timedelta(hours=number), BERLIN) for number in range(hours)]


@given(times)
def test_a_name_says_when_the_copy_was_taken(at: datetime) -> None:
    copy = taken(at, BERLIN)
    assert named(copy.name) == copy
    assert timedelta(0) <= at - copy.taken_at < timedelta(minutes=1)


def test_the_hour_that_autumn_has_twice_has_two_names_in_their_order() -> None:
    night = hourly(datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN), 4)
    assert [copy.name[11:] for copy in night] == ["0130+0200", "0230+0200", "0230+0100", "0330+0100"]
    assert sorted(night) == night
    spring = hourly(datetime(2026, 3, 29, 1, 30, tzinfo=BERLIN), 2)
    assert [copy.name[11:] for copy in spring] == ["0130+0100", "0330+0200"]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".partial", "2026-11-24T1742", "2026-13-24T1742+0100", "2026-11-24T1742+0100/..",
     "2026-11-24T1742+0100 ", "0001-01-01T0000+2359", "2026-11-24T1742+9999", "٢026-11-24T1742+0100"],
)  # fmt: skip
def test_what_is_not_the_name_of_a_copy_is_none(name: str) -> None:
    assert named(name) is None


@pytest.mark.parametrize(
    ("at", "said", "marked"),
    [
        (datetime(2026, 11, 24, 17, 0, tzinfo=BERLIN), "Today 17:00", "Tuesday 17.00"),
        (datetime(2026, 11, 23, 23, 0, tzinfo=UTC), "Today 00:00", "Tuesday 00.00"),
        (datetime(2026, 11, 23, 17, 40, tzinfo=BERLIN), "Yesterday 17:40", "Monday 17.40"),
        (datetime(2026, 11, 22, 17, 40, tzinfo=BERLIN), "Sunday 17:40", "Sunday 17.40"),
        (datetime(2026, 11, 18, 9, 0, tzinfo=BERLIN), "Wednesday 09:00", "Wednesday 09.00"),
        (datetime(2026, 11, 17, 9, 0, tzinfo=BERLIN), "17 November 09:00", "17 November 09.00"),
        (datetime(2025, 11, 17, 9, 0, tzinfo=BERLIN), "17 November 2025 09:00", "17 November 2025 09.00"),
        (datetime(2026, 11, 25, 9, 0, tzinfo=BERLIN), "25 November 09:00", "25 November 09.00"),
    ],
)
def test_a_time_is_said_as_a_person_says_it(at: datetime, said: str, marked: str) -> None:
    assert words(at, NOW, BERLIN) == said
    assert mark(at, NOW, BERLIN) == marked


@given(copies, rules)
def test_what_is_kept_is_there_is_no_more_than_the_rules_say_and_has_the_newest(
    every: list[Snapshot], rules: dict[str, int]
) -> None:
    stay = kept(every, rules, BERLIN)
    assert stay <= set(every)
    assert len(stay) <= max(1, sum(rules.values()))
    assert (max(every) in stay) if every else (stay == frozenset())


@given(copies, rules)
def test_keeping_once_more_drops_nothing_more(every: list[Snapshot], rules: dict[str, int]) -> None:
    stay = kept(every, rules, BERLIN)
    assert kept(stay, rules, BERLIN) == stay


@given(copies, rules)
def test_more_generous_rules_keep_no_less(every: list[Snapshot], rules: dict[str, int]) -> None:
    more = {kind: number + 1 for kind, number in rules.items()}
    assert kept(every, rules, BERLIN) <= kept(every, more, BERLIN)


@given(copies, rules)
def test_the_last_copy_of_each_of_the_newest_days_is_kept(every: list[Snapshot], rules: dict[str, int]) -> None:
    stay = kept(every, rules, BERLIN)
    last_of: dict[object, Snapshot] = {}
    for copy in sorted(every):
        last_of[copy.taken_at.astimezone(BERLIN).date()] = copy
    newest_days = sorted(last_of, reverse=True)[: rules["days"]]
    assert {last_of[day] for day in newest_days} <= stay


@pytest.mark.parametrize("start", [datetime(2026, 2, 1, tzinfo=BERLIN), datetime(2026, 9, 20, tzinfo=BERLIN)])
def test_hour_after_hour_over_a_change_of_clocks_each_hour_day_and_week_stays(start: datetime) -> None:
    every = hourly(start, 24 * 70)
    stay: frozenset[Snapshot] = frozenset()
    for copy in every:
        stay = kept({*stay, copy}, RULES, BERLIN)
    assert set(every[-48:]) <= stay, "the last 48 hours"
    local = [copy.taken_at.astimezone(BERLIN) for copy in stay]
    today = every[-1].taken_at.astimezone(BERLIN).date()
    assert {today - timedelta(days=number) for number in range(14)} <= {at.date() for at in local}, "the last 14 days"
    mondays = {at.date() - timedelta(days=at.weekday()) for at in local}
    assert {today - timedelta(days=today.weekday() + 7 * number) for number in range(8)} <= mondays, "the last 8 weeks"
    assert len(stay) <= 48 + 14 + 8


def test_a_home_that_nobody_changes_keeps_its_last_copies_for_ever() -> None:
    old = hourly(datetime(2024, 1, 1, tzinfo=BERLIN), 3)
    assert kept(old, RULES, BERLIN) == set(old)
    assert kept(old, {}, BERLIN) == {old[-1]}
