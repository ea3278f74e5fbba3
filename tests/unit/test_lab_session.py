"""What the hub says of a session, whatever it sends."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_in_web import notice, session

from idl_hub.gpus.reading import GPU, HEALTHY, Health, HealthState, ServerReading
from idl_hub.lab.holders import Holder
from idl_hub.lab.hub import HubSays
from idl_hub.lab.session import Card, Use, parse, without_notice
from idl_hub.lab.status import Status, merge, share_out
from idl_hub.lab.watch import Look, gpus_of_this_server

GIB = 2**30
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["lease_id", "server", "started_at", "gpus", "idle_seconds", "ends_at", "can_extend", "notice"]


def test_a_session_is_read_with_its_gpus_and_notice() -> None:
    answer = session("GPU-a", idle_seconds=60, notice=notice("idle", 300))
    found = parse(answer, time.time())
    assert found is not None
    assert found.server == "gpu05"
    assert found.cards[0].index == 3
    assert found.notice is not None
    assert found.notice.can_keep
    assert found.uses is None


def test_times_are_moved_to_this_server_s_clock() -> None:
    answer = session("GPU-a", notice=notice("idle", 300))
    found = parse(answer, answer["now"] - 1000)
    assert found is not None
    assert found.notice is not None
    assert found.notice.deadline - (answer["now"] - 1000) == pytest.approx(300, abs=1)


def test_a_countdown_does_not_jump_by_what_an_answer_takes_on_its_way() -> None:
    answer = session("GPU-a", notice=notice("idle", 300))
    found = parse(answer, answer["now"] + 2)
    assert found is not None
    assert found.notice is not None
    assert found.notice.deadline == answer["session"]["notice"]["deadline"]


def test_processes_that_the_agent_translated_are_taken_over() -> None:
    answer = session("GPU-a")
    answer["session"]["gpus"][0]["processes"] = [
        {"pid_in_container": 42, "memory_used_bytes": GIB},
        {"pid_in_container": "x", "memory_used_bytes": 1},
        {"memory_used_bytes": 1},
        {"pid_in_container": 43, "memory_used_bytes": None},
    ]
    found = parse(answer, time.time())
    assert found is not None
    assert found.uses == (Use(42, GIB), Use(43, None))


@pytest.mark.parametrize("answer", [{}, {"session": None}, {"session": []}, {"session": "x"}])
def test_no_session_is_none(answer: dict[str, Any]) -> None:
    assert parse(answer, 0) is None


@given(field=st.sampled_from(FIELDS), value=ANYTHING, now=ANYTHING)
def test_wrong_types_never_get_through_and_never_raise(field: str, value: Any, now: Any) -> None:
    answer = session("GPU-a")
    answer["session"][field] = value
    answer["now"] = now
    found = parse(answer, time.time())
    status = Status(True, HubSays(reachable=True, session=found), Look()).as_json(0)
    json.dumps(status, allow_nan=False)
    assert all(isinstance(gpu["uuid"], str) for gpu in status["gpus"])


@given(value=ANYTHING)
def test_a_broken_gpu_or_notice_is_left_out(value: Any) -> None:
    answer = session("GPU-a")
    answer["session"]["gpus"] = [value, {"uuid": "GPU-b", "index": value, "memory_used_bytes": math.nan}]
    answer["session"]["notice"] = {"kind": "idle", "deadline": value}
    found = parse(answer, time.time())
    assert found is not None
    assert found.cards[-1].uuid == "GPU-b"
    assert found.cards[-1].memory_used_bytes is None


def test_of_a_silent_hub_nothing_is_kept_that_may_have_changed() -> None:
    found = without_notice(parse(session("GPU-a", can_extend=True, notice=notice("idle", 9)), time.time()))
    assert found is not None
    assert (found.notice, found.can_extend, found.idle_seconds) == (None, False, None)
    assert found.cards[0].index == 3


# One answer out of two sources

READ = GPU("GPU-a", 0, HEALTHY, utilization_ratio=0.5, memory_used_bytes=GIB, memory_total_bytes=11 * GIB)


def test_the_hub_s_number_stays_and_the_server_s_own_values_are_taken() -> None:
    (card,) = merge([Card("GPU-a", index=3, utilization_ratio=0.1)], [READ])
    assert (card.index, card.utilization_ratio, card.memory_used_bytes) == (3, 0.5, GIB)


def test_a_gpu_that_cannot_be_read_here_shows_what_the_hub_reads() -> None:
    sick = READ.without_values(Health(HealthState.LOST, words="gone"))
    (card,) = merge([Card("GPU-a", index=3, utilization_ratio=0.1)], [sick])
    assert card.utilization_ratio == 0.1


def test_without_the_hub_a_gpu_has_no_number_because_a_container_counts_from_0() -> None:
    (card,) = merge([], [READ])
    assert (card.index, card.utilization_ratio) == (None, 0.5)


def test_simulated_is_said_when_this_server_s_own_nvml_is() -> None:
    reading = ServerReading("here", 0.0, HEALTHY, (READ,), simulated=True)
    assert Status(True, HubSays(reachable=False), Look(reading)).as_json(0)["simulated"] is True


def test_one_holder_alone_holds_all_that_is_held_where_nobody_counts() -> None:
    alone = Holder("a.ipynb", "a.ipynb", "k", busy=False, memory_used_bytes=None)
    cards = [Card("GPU-a", memory_used_bytes=5 * GIB)]
    assert share_out((alone,), cards)[0].memory_used_bytes == 5 * GIB
    assert {holder.memory_used_bytes for holder in share_out((alone, alone), cards)} == {None}


@pytest.mark.parametrize(
    ("value", "uuids"),
    [("", ()), ("none", ()), ("void", ()), ("all", ()), ("GPU-a", ("GPU-a",)), ("GPU-a, GPU-b", ("GPU-a", "GPU-b"))],
)
def test_the_gpus_of_a_server_are_the_uuids_it_was_given(value: str, uuids: tuple[str, ...]) -> None:
    assert gpus_of_this_server(value) == uuids
