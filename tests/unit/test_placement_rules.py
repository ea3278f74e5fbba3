"""The order of concerns, and what holds of every choice whatever is read, remembered and asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from parts import NOW, SICK, card, server

from idl_hub.gpus.placement import Choice, Closed, NoGPU, Remembered, Rules, State, Wish, choose, standings
from idl_hub.gpus.reading import HEALTHY, Health, HealthState, Process, ServerFigures, ServerReading

RULES = Rules()
GIB = 2**30


def figures(cpu: float = 0.0, memory_free: float = 1.0) -> ServerFigures:
    return ServerFigures(24, cpu, 0.0, 0.0, 0.0, 256 * GIB, int(memory_free * 256 * GIB), 0.0)


def place(name: str, cards: int = 1, told: ServerFigures | None = None, **card_told: Any) -> ServerReading:
    gpus = (card(n, uuid=f"{name}-{n}", **card_told) for n in range(cards))
    return replace(server(*gpus, name=name), figures=told)


def pick(*servers: ServerReading, count: int = 1, **more: Any) -> Choice | NoGPU:
    return choose(servers, more.pop("holders", {}), count, RULES, NOW, **more)


def where(found: Choice | NoGPU) -> str:
    assert isinstance(found, Choice), found.reason
    return found.server


# -- one concern after the other ----------------------------------------------------------------------------


def test_what_is_remembered_to_be_sick_is_left_out_although_it_answers() -> None:
    found = pick(place("a"), remembered={"a-0": Remembered(0.0, None, "XID 79")})
    assert isinstance(found, NoGPU)
    assert [(s.state, s.reason) for s in found.standings] == [(State.SICK, "XID 79")]


def test_the_averaged_load_ranks_and_not_the_one_of_this_second() -> None:
    now_idle, now_busy = place("a", utilization_ratio=0.0), place("b", utilization_ratio=0.05)
    remembered = {"a-0": Remembered(0.6), "b-0": Remembered(0.01)}
    assert where(pick(now_idle, now_busy, remembered=remembered)) == "b"
    assert where(pick(now_idle, now_busy)) == "a"


def test_load_goes_before_memory_and_memory_before_room() -> None:
    loaded = place("a", told=figures(0.0))
    full = place("b", told=figures(0.0), memory_used_bytes=300 * 2**20)
    crowded = place("c", told=figures(0.9))
    remembered = {"a-0": Remembered(0.3)}
    assert where(pick(loaded, full, crowded, remembered=remembered)) == "c"
    assert where(pick(loaded, full, remembered=remembered)) == "b"


@pytest.mark.parametrize("busy", [figures(cpu=0.9), figures(memory_free=0.1), figures(cpu=0.5, memory_free=0.4)])
def test_a_server_with_more_processor_time_and_memory_left_goes_before_one_with_more_free_gpus(
    busy: ServerFigures,
) -> None:
    assert where(pick(place("a", 8, busy), place("b", 1, figures()))) == "b"


def test_a_fleeting_difference_of_load_does_not_outweigh_free_gpus() -> None:
    assert where(pick(place("a", 1, figures(0.01)), place("b", 2, figures(0.1)))) == "b"


def test_a_class_that_starts_at_once_is_spread_before_any_reading_shows_it() -> None:
    servers = [place(f"gpu{n:02}", 8, figures(0.05)) for n in range(10)]
    holders: dict[str, str] = {}
    counts = dict.fromkeys((s.server for s in servers), 0)
    for number in range(80):
        found = pick(*servers, holders=holders)
        assert isinstance(found, Choice)
        counts[found.server] += 1
        holders[found.gpus[0].uuid] = f"student{number}"
        assert max(counts.values()) - min(counts.values()) <= 1
    assert isinstance(pick(*servers, holders=holders), NoGPU)


def test_cpu_sessions_are_spread_by_the_ledger_too() -> None:
    servers = [place(f"gpu{n:02}", 8, figures(0.05)) for n in range(4)]
    sessions: dict[str, int] = {}
    for _ in range(40):
        name = where(pick(*servers, count=0, wish=Wish(sessions=sessions)))
        sessions[name] = sessions.get(name, 0) + 1
    assert sessions == dict.fromkeys((s.server for s in servers), 10)


def test_among_equals_a_student_comes_back_to_the_last_server() -> None:
    servers = [place("a"), place("b", temperature_celsius=60), place("c")]
    assert where(pick(*servers)) == "a"
    assert where(pick(*servers, wish=Wish(last_server="b"))) == "b"
    assert where(pick(*servers, wish=Wish(last_server="gone"))) == "a"
    loaded = place("b", utilization_ratio=0.05)
    assert where(pick(servers[0], loaded, wish=Wish(last_server="b"))) == "a", "no better than a less loaded GPU"


def test_among_equals_the_gpu_that_people_from_outside_used_least_comes_first() -> None:
    pair = server(card(0, uuid="u0"), card(1, uuid="u1", temperature_celsius=70))
    found = pick(pair, remembered={"u0": Remembered(0.0, outside_ratio=0.3), "u1": Remembered(0.0)})
    assert isinstance(found, Choice)
    assert found.gpus[0].uuid == "u1"
    assert where(pick(pair, remembered={"u0": Remembered(0.0, outside_ratio=0.04)})) == "gpu1"


def test_only_servers_that_the_group_may_use_are_looked_at() -> None:
    found = pick(place("a"), place("b"), wish=Wish(servers=frozenset({"b"})))
    assert where(found) == "b"
    assert isinstance(found, Choice)
    assert found.reason.endswith("the last free one")
    none = pick(place("a"), wish=Wish(servers=frozenset({"b"})))
    assert isinstance(none, NoGPU)
    assert none.reason == "of 1 GPUs: 1 free, but not enough on one server that the group may use"


def test_each_gpu_must_have_as_much_memory_free_as_was_asked_for() -> None:
    small = place("a", 2, memory_total_bytes=11 * GIB)
    large = place("b", 1, memory_total_bytes=24 * GIB, temperature_celsius=80)
    silent = place("c", 1, memory_total_bytes=None)
    wish = Wish(memory_free_bytes=16 * GIB)
    assert where(pick(small, silent, large, wish=wish)) == "b"
    found = pick(small, silent, large, count=2, wish=wish)
    assert isinstance(found, NoGPU)
    assert found.reason == "of 4 GPUs: 4 free, but not enough with 16.0 GiB of memory on one server"


def test_several_gpus_are_as_good_as_the_worst_of_them() -> None:
    mixed = server(card(0, uuid="a-0"), card(1, uuid="a-1", utilization_ratio=0.09), name="a")
    even = place("b", 2, utilization_ratio=0.04)
    assert where(pick(mixed, even)) == "a"
    assert where(pick(mixed, even, count=2)) == "b"


def test_the_reason_names_what_decided() -> None:
    cards = [card(index, uuid=f"u{index}", temperature_celsius=40 - index) for index in range(6)]
    found = pick(server(*cards, name="gpu05"), remembered={"u5": Remembered(0.0, NOW - 40 * 60)})
    assert isinstance(found, Choice)
    assert found.words == "gpu05 #5: idle for 40 min, 35 °C, coolest of 6 free ones"
    long = pick(place("a"), remembered={"a-0": Remembered(0.0, NOW - 5 * 3600)})
    assert isinstance(long, Choice)
    assert long.reason == "idle for 5 h, 30 °C, the last free one"
    assert pick(place("a"), count=0) == Choice("a", (), "a session without GPU")


# -- whatever comes -----------------------------------------------------------------------------------------

GOOD_CARDS = st.fixed_dictionaries(
    {
        "utilization_ratio": st.none() | st.sampled_from([0.0, 0.05]),
        "memory_used_bytes": st.sampled_from([0, 100 * 2**20]),
        "temperature_celsius": st.none() | st.integers(20, 95),
    }
)
ANY_CARDS = st.fixed_dictionaries(
    {
        "health": st.sampled_from([HEALTHY, SICK, Health(HealthState.HUNG)]),
        "utilization_ratio": st.none() | st.sampled_from([0.0, 0.5]),
        "memory_used_bytes": st.none() | st.sampled_from([0, 2 * GIB]),
        "processes": st.sampled_from([None, (), (Process(1),)]),
        "known": st.sampled_from([True, True, False]),
    }
)
CARDS = GOOD_CARDS | GOOD_CARDS | ANY_CARDS
UUIDS = [f"gpu{s}-{n}" for s in range(4) for n in range(4)]
NAMES = [f"gpu{s}" for s in range(4)]
SETS_OF_UUIDS = st.sets(st.sampled_from(UUIDS), max_size=5)
FIGURES = st.none() | st.builds(figures, st.floats(0, 1), st.floats(0, 1))
REMEMBERED = st.dictionaries(
    st.sampled_from(UUIDS),
    st.builds(
        Remembered,
        st.none() | st.floats(0, 1),
        st.none() | st.floats(0, NOW),
        st.sampled_from([""] * 7 + ["hot"]),
        st.floats(0, 1),
    ),
)
WISHES = st.builds(
    Wish,
    memory_free_bytes=st.sampled_from([0, 0, 0, 8 * GIB]),
    servers=st.none() | st.none() | st.frozensets(st.sampled_from(NAMES), min_size=2),
    last_server=st.sampled_from(["", *NAMES]),
    sessions=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9)),
)


@st.composite
def fleets(draw: st.DrawFn) -> list[ServerReading]:
    servers = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=draw(st.sampled_from([0, 2, 3])))):
        gpus = []
        for index, told in enumerate(draw(st.lists(CARDS, min_size=draw(st.sampled_from([0, 3])), max_size=4))):
            known = told.pop("known", True)
            gpus.append(card(index, uuid=f"{name}-{index}" if known else None, **told))
        reading = server(*gpus, name=name, age_seconds=draw(st.sampled_from([1] * 8 + [30, -30])))
        servers.append(replace(reading, figures=draw(FIGURES)))
    return servers


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    closed = Closed(
        servers=dict.fromkeys(draw(st.sampled_from([(), (), *((name,) for name in NAMES)])), "drained"),
        gpus=dict.fromkeys(draw(st.sets(st.sampled_from(UUIDS), max_size=3)), "excluded"),
    )
    return {
        "servers": draw(fleets()),
        "holders": dict.fromkeys(draw(SETS_OF_UUIDS), "somebody"),
        "gpu_count": draw(st.integers(0, 3)),
        "rules": RULES,
        "now": NOW,
        "closed": closed,
        "remembered": draw(REMEMBERED),
        "wish": draw(WISHES),
    }


def fitting(question: dict[str, Any]) -> dict[str, set[str]]:
    """Return server -> its GPUs that the standings call free and that have the memory, of servers that are allowed."""
    wish = question["wish"]
    told = {key: question[key] for key in ("servers", "holders", "rules", "now", "closed", "remembered")}
    found: dict[str, set[str]] = {reading.server: set() for reading in question["servers"]}
    for standing in standings(**told):
        gpu = standing.gpu
        enough = not wish.memory_free_bytes or (
            gpu.memory_used_bytes is not None
            and gpu.memory_total_bytes - gpu.memory_used_bytes >= wish.memory_free_bytes
        )
        allowed = wish.servers is None or standing.server in wish.servers
        if standing.state is State.FREE and enough and allowed:
            found[standing.server].add(gpu.uuid)
    return found


@settings(max_examples=400)
@given(questions())
def test_no_choice_holds_a_gpu_that_is_sick_unknown_foreign_closed_or_taken(question: dict[str, Any]) -> None:
    found = choose(**question)
    if isinstance(found, NoGPU):
        return
    by_uuid = {gpu.uuid: (reading, gpu) for reading in question["servers"] for gpu in reading.gpus}
    assert len({gpu.uuid for gpu in found.gpus}) == question["gpu_count"]
    assert found.server not in question["closed"].servers
    assert question["wish"].servers is None or found.server in question["wish"].servers
    for chosen in found.gpus:
        reading, gpu = by_uuid[chosen.uuid]
        assert reading.server == found.server
        assert chosen.uuid not in question["holders"]
        assert chosen.uuid not in question["closed"].gpus
        assert abs(NOW - reading.taken_at) <= RULES.reading_max_age_seconds
        assert gpu.health.ok
        assert not question["remembered"].get(chosen.uuid, Remembered()).sick
        assert not gpu.processes
        assert (gpu.utilization_ratio or 0) < RULES.busy_utilization_ratio
        assert (gpu.memory_used_bytes or 0) <= RULES.busy_memory_bytes


@settings(max_examples=300)
@given(questions())
def test_there_is_a_choice_exactly_when_a_server_has_enough_gpus_that_fit(question: dict[str, Any]) -> None:
    found, count = choose(**question), question["gpu_count"]
    if count:
        possible = {name for name, uuids in fitting(question).items() if len(uuids) >= count}
        assert isinstance(found, Choice) == bool(possible)
        if isinstance(found, Choice):
            assert {gpu.uuid for gpu in found.gpus} <= fitting(question)[found.server]
    elif isinstance(found, NoGPU):
        allowed = question["wish"].servers
        names = {reading.server for reading in question["servers"]} - question["closed"].servers.keys()
        assert not (names if allowed is None else names & allowed)


@settings(max_examples=300)
@given(questions(), st.randoms())
def test_the_same_question_has_the_same_answer_in_whatever_order_it_is_told(
    question: dict[str, Any], order: Any
) -> None:
    first = choose(**question)
    servers = [replace(one, gpus=tuple(order.sample(one.gpus, len(one.gpus)))) for one in question["servers"]]
    order.shuffle(servers)
    second = choose(**{**question, "servers": servers})
    assert first == choose(**question)
    assert type(first) is type(second)
    if isinstance(first, Choice) and isinstance(second, Choice):
        assert (first.server, first.gpus, first.reason) == (second.server, second.gpus, second.reason)


@settings(max_examples=300)
@given(questions(), SETS_OF_UUIDS)
def test_taking_other_gpus_away_leaves_a_choice_possible_and_giving_back_never_takes_one(
    question: dict[str, Any], taken: set[str]
) -> None:
    found = choose(**question)
    assume(isinstance(found, Choice) and found.gpus)
    assert isinstance(found, Choice)
    others = taken - {gpu.uuid for gpu in found.gpus}
    less = choose(**{**question, "holders": {**question["holders"], **dict.fromkeys(others, "another")}})
    assert isinstance(less, Choice)
    assert isinstance(choose(**{**question, "holders": {}}), Choice)


@settings(max_examples=300)
@given(questions(), st.sampled_from(UUIDS))
def test_what_is_not_chosen_is_not_missed(question: dict[str, Any], removed: str) -> None:
    """Closing a GPU of another server that was not chosen changes only how crowded that server looks."""
    question["gpu_count"] = 1
    found = choose(**question)
    assume(isinstance(found, Choice))
    assert isinstance(found, Choice)
    [gpu] = found.gpus
    assume(removed != gpu.uuid and not removed.startswith(found.server))
    closed = replace(question["closed"], gpus={**question["closed"].gpus, removed: "closed"})
    assert choose(**{**question, "closed": closed}).gpus == found.gpus  # type: ignore[union-attr]


@settings(max_examples=200)
@given(questions(), st.sampled_from(UUIDS))
def test_a_gpu_does_not_become_better_by_more_load(question: dict[str, Any], uuid: str) -> None:
    question["gpu_count"] = 1
    found = choose(**question)
    assume(isinstance(found, Choice) and found.gpus[0].uuid != uuid)
    remembered = question["remembered"].get(uuid, Remembered())
    assume(not remembered.sick)
    loaded = {**question["remembered"], uuid: replace(remembered, average_utilization_ratio=1.0, idle_since=None)}
    assert choose(**{**question, "remembered": loaded}).gpus == found.gpus  # type: ignore[union-attr]
