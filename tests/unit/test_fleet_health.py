"""Which GPUs stay out: what heals by itself, and what waits for an admin."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import SICK, card

from idl_hub.gpus.health import PROGRAM_XIDS, SICK_XIDS, HealthMemory, HealthRules
from idl_hub.gpus.reading import HEALTHY, Health, HealthState, Xid

RULES = HealthRules(quiet_seconds=60, most_failures=3, failures_seconds=600)
HUNG = Health(HealthState.HUNG, words="the GPU has not answered NVML for 7 s")
NO_DRIVER = Health(HealthState.DRIVER_NOT_LOADED, 9, "the NVIDIA driver is not loaded")


class Watched:
    """A memory that is told a reading every second."""

    def __init__(self) -> None:
        self.memory = HealthMemory(RULES)
        self.now = 1000.0

    def sees(self, seconds: float = 1, **told: Any) -> Watched:
        for _ in range(int(seconds)):
            self.now += 1
            self.memory.follow(card(0, **told), self.now)
        return self


def test_a_gpu_that_is_well_is_well() -> None:
    watched = Watched().sees(100)
    assert (watched.memory.sick, watched.memory.needs_admin, watched.memory.note) == ("", "", "")


@pytest.mark.parametrize("code", sorted(SICK_XIDS))
def test_an_xid_of_the_hardware_keeps_a_gpu_out_until_an_admin_ends_it(code: int) -> None:
    watched = Watched()
    xids = (Xid(code, 1000.5),)
    watched.sees(3600, xids=xids)
    assert f"XID {code}" in watched.memory.needs_admin
    assert watched.memory.sick == watched.memory.needs_admin
    watched.memory.clear(watched.now)
    watched.sees(10, xids=xids)  # an agent reports it as long as it runs
    assert watched.memory.sick == ""
    watched.sees(1, xids=(*xids, Xid(code, watched.now)))
    assert f"XID {code}" in watched.memory.needs_admin


@pytest.mark.parametrize("code", [*sorted(PROGRAM_XIDS), 999])
def test_an_xid_of_a_program_is_noted_and_nothing_more(code: int) -> None:
    watched = Watched().sees(5, xids=(Xid(code, 1000.5),))
    assert watched.memory.sick == ""
    assert f"XID {code}" in watched.memory.note


def test_a_gpu_that_was_lost_and_is_back_waits_for_an_admin() -> None:
    watched = Watched().sees(health=SICK).sees(24 * 3600)
    assert "lost" in watched.memory.needs_admin
    watched.memory.clear(watched.now)
    assert watched.memory.needs_admin == ""
    watched.sees(61)
    assert watched.memory.sick == ""


def test_a_gpu_that_is_still_lost_is_not_well_because_somebody_says_so() -> None:
    watched = Watched().sees(health=SICK)
    watched.memory.clear(watched.now)
    assert "lost" in watched.sees(health=SICK).memory.needs_admin


def test_an_older_clearing_does_not_undo_a_newer_failure() -> None:
    watched = Watched().sees(health=SICK)
    watched.memory.clear(watched.now - 1)
    assert "lost" in watched.memory.needs_admin


@pytest.mark.parametrize("health", [HUNG, NO_DRIVER, Health(HealthState.ERROR, 999, "unknown error")])
def test_a_failure_that_ended_is_over_after_a_quiet_time(health: Health) -> None:
    watched = Watched().sees(10, health=health)
    assert health.words in watched.memory.sick
    assert watched.memory.needs_admin == ""
    assert health.words in watched.sees(59).memory.sick
    assert watched.sees(1).memory.sick == ""


def test_a_gpu_that_fails_again_and_again_stays_out_longer() -> None:
    watched = Watched()
    for _ in range(3):
        watched.sees(health=HUNG).sees(70)
    assert "failed 3 times" in watched.memory.sick
    assert "failed 3 times" in watched.sees(500).memory.sick
    assert watched.sees(60).memory.sick == ""


def test_one_long_failure_is_not_many() -> None:
    assert Watched().sees(300, health=HUNG).sees(60).memory.sick == ""


def test_failures_far_apart_are_not_held_together() -> None:
    watched = Watched()
    for _ in range(5):
        watched.sees(health=HUNG).sees(400)
    assert watched.memory.sick == ""


def test_a_hot_gpu_is_back_when_it_has_been_cool_for_a_quiet_time() -> None:
    watched = Watched().sees(temperature_celsius=90)
    assert "too hot" in watched.memory.sick
    assert "too hot" in watched.sees(600, temperature_celsius=86).memory.sick, "not cool: within the hysteresis"
    assert "too hot" in watched.sees(59, temperature_celsius=85).memory.sick
    assert watched.sees(1, temperature_celsius=85).memory.sick == ""
    assert watched.sees(600, temperature_celsius=89).memory.sick == "", "not hot: below the limit"


def test_a_gpu_that_does_not_tell_its_temperature_is_not_taken_for_cool() -> None:
    watched = Watched().sees(temperature_celsius=95).sees(600, temperature_celsius=None)
    assert "too hot" in watched.memory.sick


SIGHTS = st.lists(
    st.tuples(
        st.sampled_from([HEALTHY, HEALTHY, HUNG, NO_DRIVER]),
        st.none() | st.integers(20, 120),
        st.lists(st.sampled_from([13, 31, 43, 999]), max_size=2),
    ),
    max_size=80,
)


@given(SIGHTS)
def test_whatever_heals_is_over_after_the_longest_quiet_time(
    sights: list[tuple[Health, int | None, list[int]]],
) -> None:
    watched = Watched()
    for health, celsius, codes in sights:
        xids = tuple(Xid(code, watched.now) for code in codes)
        watched.sees(health=health, temperature_celsius=celsius, xids=xids)
        if not health.ok or (celsius is not None and celsius >= 90):
            assert watched.memory.sick
    assert watched.memory.needs_admin == ""
    assert watched.sees(601).memory.sick == ""
