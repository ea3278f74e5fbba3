"""When a session's GPU comes back: the rule, by cases and by properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl_hub.gpus.reclaim import Action, Policy, Session, decide, idle_ends_at, notice

POLICY = Policy(
    idle_while_others_wait_seconds=1200,
    idle_alone_seconds=8 * 3600,
    warning_seconds=600,
    longest_seconds=24 * 3600,
    extension_seconds=3600,
)
NOW = 1_000_000.0
moments = st.none() | st.floats(0, 2 * NOW)


def session(
    *,
    idle_seconds: float | None = 0,
    ends_in: float | None = 3600.0 * 5,
    warned_seconds_ago: float | None = None,
    kept_seconds_ago: float | None = None,
) -> Session:
    return Session(
        idle_since=None if idle_seconds is None else NOW - idle_seconds,
        ends_at=None if ends_in is None else NOW + ends_in,
        warned_at=None if warned_seconds_ago is None else NOW - warned_seconds_ago,
        kept_at=None if kept_seconds_ago is None else NOW - kept_seconds_ago,
    )


@pytest.mark.parametrize(
    ("seen", "others_wait", "action"),
    [
        (session(idle_seconds=60), True, Action.LEAVE),
        (session(idle_seconds=1199), True, Action.LEAVE),
        (session(idle_seconds=1200), True, Action.WARN),
        (session(idle_seconds=1200), False, Action.LEAVE),
        (session(idle_seconds=8 * 3600), False, Action.WARN),
        (session(idle_seconds=1500, warned_seconds_ago=300), True, Action.LEAVE),
        (session(idle_seconds=1800, warned_seconds_ago=600), True, Action.STOP_IDLE),
        (session(idle_seconds=1, warned_seconds_ago=599), True, Action.UNWARN),
        (session(idle_seconds=1500, warned_seconds_ago=300), False, Action.UNWARN),
        (session(idle_seconds=5000, kept_seconds_ago=100), True, Action.LEAVE),
        (session(idle_seconds=5000, kept_seconds_ago=1200), True, Action.WARN),
        (session(idle_seconds=None), True, Action.LEAVE),
        (session(idle_seconds=0, ends_in=0), False, Action.STOP_LENGTH),
        (session(idle_seconds=0, ends_in=None), True, Action.LEAVE),
    ],
)
def test_the_rule(seen: Session, others_wait: bool, action: Action) -> None:
    assert decide(seen, POLICY, NOW, others_wait=others_wait) is action


def test_without_a_limit_nobody_is_warned_while_nobody_waits() -> None:
    unlimited = Policy(idle_alone_seconds=None)
    assert decide(session(idle_seconds=10**6), unlimited, NOW, others_wait=False) is Action.LEAVE


@given(warned=moments, kept=moments, others_wait=st.booleans())
def test_a_gpu_in_use_is_never_taken_back_for_being_idle(
    warned: float | None, kept: float | None, others_wait: bool
) -> None:
    seen = Session(idle_since=NOW, ends_at=None, warned_at=warned, kept_at=kept)
    assert decide(seen, POLICY, NOW, others_wait=others_wait) in {Action.LEAVE, Action.UNWARN}


@given(idle_since=moments, ends_at=moments, warned=moments, kept=moments, others_wait=st.booleans())
def test_nobody_is_stopped_for_idling_without_a_full_warning(
    idle_since: float | None, ends_at: float | None, warned: float | None, kept: float | None, others_wait: bool
) -> None:
    seen = Session(idle_since, ends_at, warned, kept)
    if decide(seen, POLICY, NOW, others_wait=others_wait) is Action.STOP_IDLE:
        assert warned is not None
        assert NOW - warned >= POLICY.warning_seconds


def test_the_warning_says_until_when_and_whether_keeping_works() -> None:
    first = notice(session(idle_seconds=1300, warned_seconds_ago=100), POLICY, NOW, others_wait=True)
    assert first is not None
    assert (first.kind, first.deadline, first.can_keep) == ("idle", NOW + 500, True)
    again = notice(
        session(idle_seconds=9000, warned_seconds_ago=100, kept_seconds_ago=2000), POLICY, NOW, others_wait=True
    )
    assert again is not None
    assert not again.can_keep


def test_the_end_of_the_longest_session_is_announced_an_hour_before() -> None:
    assert notice(session(ends_in=3601), POLICY, NOW, others_wait=False) is None
    told = notice(session(ends_in=3599), POLICY, NOW, others_wait=False)
    assert told is not None
    assert (told.kind, told.deadline, told.can_keep) == ("length", NOW + 3599, True)


def test_who_waits_can_expect_an_idle_gpu_at_the_end_of_the_warning() -> None:
    assert idle_ends_at(session(idle_seconds=200), POLICY) == NOW - 200 + 1800
    assert idle_ends_at(session(idle_seconds=1300, warned_seconds_ago=100), POLICY) == NOW + 500
    assert idle_ends_at(session(idle_seconds=None), POLICY) is None
