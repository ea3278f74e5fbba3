"""An average for placement and an hour of points for the map."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl_hub.gpus.history import AVERAGE_SECONDS, POINT_SECONDS, POINTS, History, averaged

RATIOS = st.floats(0, 1)


def test_the_average_starts_with_the_first_value() -> None:
    assert averaged(None, 0.7, 5.0) == 0.7
    assert averaged(None, None, 5.0) is None


def test_after_a_minute_a_change_has_come_in_by_63_per_cent() -> None:
    assert averaged(0.0, 1.0, AVERAGE_SECONDS) == pytest.approx(1 - math.exp(-1))


def test_what_is_not_known_and_time_that_does_not_pass_change_nothing() -> None:
    assert averaged(0.4, None, 5.0) == 0.4
    assert averaged(0.4, 1.0, 0.0) == 0.4
    assert averaged(0.4, 1.0, -3600.0) == 0.4


@given(RATIOS, RATIOS, st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_average_does_not_depend_on_how_often_the_same_was_read(
    previous: float, value: float, first: float, second: float
) -> None:
    twice = averaged(averaged(previous, value, first), value, second)
    assert twice == pytest.approx(averaged(previous, value, first + second), abs=1e-9)


@given(RATIOS, RATIOS, st.floats(-1e9, 1e12))
def test_the_average_stays_between_what_it_was_and_what_was_read(previous: float, value: float, seconds: float) -> None:
    found = averaged(previous, value, seconds)
    assert found is not None
    assert min(previous, value) - 1e-12 <= found <= max(previous, value) + 1e-12


def test_a_point_is_the_mean_utilization_and_the_last_memory_of_ten_seconds() -> None:
    history = History()
    history.add(1000.0, 0.2, 100)
    history.add(1005.0, 0.4, 300)
    history.add(1010.0, 1.0, 500)
    first, second = history.points(1010.0)
    assert (first.at, first.utilization_ratio, first.memory_used_bytes) == (1000.0, pytest.approx(0.3), 300)
    assert (second.at, second.utilization_ratio, second.memory_used_bytes) == (1010.0, 1.0, 500)


def test_times_without_a_reading_are_unknown_and_not_zero() -> None:
    history = History()
    history.add(1000.0, 0.5, 1)
    history.add(1030.0, 0.5, 1)
    assert [point.utilization_ratio for point in history.points(1055.0)] == [0.5, None, None, 0.5, None, None]


def test_an_hour_is_kept_and_no_more() -> None:
    history = History()
    for second in range(0, 3 * 3600, 5):
        history.add(float(second), second / (3 * 3600), second)
    points = history.points(3 * 3600 - 1)
    assert len(points) == POINTS
    assert points[0].at == 2 * 3600
    assert [point.at for point in points] == sorted(point.at for point in points)
    assert history.points(3 * 3600 + 3600) == ()


def test_a_clock_that_is_set_back_by_more_than_an_hour_begins_anew() -> None:
    history = History()
    history.add(100_000.0, 0.5, 1)
    history.add(10.0, 0.7, 2)
    assert [point.utilization_ratio for point in history.points(10.0)] == [pytest.approx(0.7)]


@given(st.lists(st.tuples(st.floats(-1e11, 1e11), st.none() | RATIOS, st.none() | st.integers(0, 2**40)), max_size=60))
def test_whatever_times_come_memory_is_bounded_and_points_are_true(
    told: list[tuple[float, float | None, int | None]],
) -> None:
    history = History()
    for at, utilization, memory in told:
        history.add(at, utilization, memory)
    assert sum(sys.getsizeof(getattr(history, name)) for name in ("_utilization", "_memory")) < 4096
    if told:
        points = history.points(told[-1][0])
        assert len(points) <= POINTS
        for point in points:
            assert point.at % POINT_SECONDS == 0
            assert point.utilization_ratio is None or 0 <= point.utilization_ratio <= 1
