"""Which GPU, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import NOW, SICK, card, server

from idl_hub.gpus.placement import Choice, Closed, NoGPU, Rules, State, choose, standings
from idl_hub.gpus.reading import HEALTHY, Health, HealthState, Process, ServerReading

RULES = Rules()
MIB = 2**20


def pick(*servers: ServerReading, holders: dict[str, str] | None = None, count: int = 1, **more: Any) -> Choice | NoGPU:
    return choose(servers, holders or {}, count, RULES, NOW, **more)


def indexes(choice: Choice | NoGPU) -> list[int]:
    assert isinstance(choice, Choice), choice
    return [gpu.index for gpu in choice.gpus]


def standing(**told: Any) -> tuple[State, str]:
    (found,) = standings([server(card(0, **told))], {}, RULES, NOW)
    return found.state, found.reason


# -- what a GPU is to the hub -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "state", "reason"),
    [
        ({}, State.FREE, "free"),
        ({"utilization_ratio": 0.09}, State.FREE, "free"),
        ({"utilization_ratio": 0.1}, State.FOREIGN, "10% busy by somebody outside the hub"),
        ({"memory_used_bytes": 512 * MIB}, State.FREE, "free"),
        ({"memory_used_bytes": 2048 * MIB}, State.FOREIGN, "2.0 GiB in use by somebody outside the hub"),
        ({"processes": (Process(7), Process(8))}, State.FOREIGN, "a program outside the hub runs on it (process 7, 8)"),
        ({"utilization_ratio": None, "memory_used_bytes": None, "processes": None}, State.FREE, "free"),
        ({"health": SICK}, State.SICK, "the GPU fell off the bus"),
        ({"health": Health(HealthState.HUNG)}, State.SICK, "hung"),
        ({"uuid": None, "health": SICK}, State.UNKNOWN, "the GPU fell off the bus"),
        ({"uuid": None, "health": Health(HealthState.ERROR)}, State.UNKNOWN, "it never told who it is"),
    ],
)
def test_a_gpu_stands_as_its_reading_says(told: dict[str, Any], state: State, reason: str) -> None:
    assert standing(**told) == (state, reason)


@pytest.mark.parametrize(
    ("age_seconds", "state", "reason"),
    [
        (10, State.FREE, "free"),
        (11, State.UNKNOWN, "no reading for 11 s"),
        (-10, State.FREE, "free"),
        (-300, State.UNKNOWN, "its server's clock is 300 s ahead of the hub's"),
    ],
)
def test_a_reading_counts_only_while_it_is_fresh(age_seconds: float, state: State, reason: str) -> None:
    (found,) = standings([server(card(0), age_seconds=age_seconds)], {}, RULES, NOW)
    assert (found.state, found.reason) == (state, reason)


def test_a_held_gpu_is_told_with_its_holder_whatever_it_reads() -> None:
    reading = server(card(0, health=SICK, utilization_ratio=1.0), age_seconds=1000)
    (found,) = standings([reading], {"GPU-0": "anna"}, RULES, NOW)
    assert (found.state, found.reason) == (State.TAKEN, "held by anna")


# -- which one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "best"),
    [
        ([{}, {}], 0),
        ([{"utilization_ratio": 0.05}, {"memory_used_bytes": 400 * MIB, "temperature_celsius": 80}], 1),
        ([{"memory_used_bytes": 100 * MIB}, {"temperature_celsius": 80}], 1),
        ([{"temperature_celsius": 50}, {"temperature_celsius": 40}], 1),
        ([{"utilization_ratio": None}, {"utilization_ratio": 0.09}], 1),
        ([{"memory_used_bytes": None}, {"memory_used_bytes": 100 * MIB}], 1),
        ([{"temperature_celsius": None}, {"temperature_celsius": 90}], 1),
    ],
)
def test_least_busy_goes_before_least_memory_before_coolest_before_first(
    cards: list[dict[str, Any]], best: int
) -> None:
    assert indexes(pick(server(*(card(n, **told) for n, told in enumerate(cards))))) == [best]


def test_among_equals_the_server_with_most_free_cards_comes_first_then_the_first_name() -> None:
    one = server(card(0, uuid="A0"), name="a")
    two = server(card(0, uuid="B0"), card(1, uuid="B1"), name="b")
    more = server(card(0, uuid="C0"), card(1, uuid="C1"), name="c")
    for order in ((one, two, more), (more, two, one)):
        choice = pick(*order)
        assert isinstance(choice, Choice)
        assert choice.server == "b"


def test_a_less_loaded_card_wins_over_a_server_with_more_free_cards() -> None:
    crowded = server(card(0, uuid="A0"), name="a")
    warm = server(*(card(n, uuid=f"B{n}", utilization_ratio=0.05) for n in range(4)), name="b")
    choice = pick(warm, crowded)
    assert isinstance(choice, Choice)
    assert choice.server == "a"


def test_several_cards_come_from_one_server() -> None:
    one = server(card(0, uuid="A0"), name="a")
    two = server(card(0, uuid="B0", temperature_celsius=70), card(1, uuid="B1", temperature_celsius=60), name="b")
    choice = pick(one, two, count=2)
    assert isinstance(choice, Choice)
    assert (choice.server, [gpu.uuid for gpu in choice.gpus]) == ("b", ["B1", "B0"])


def test_a_server_too_small_says_that_what_is_free_is_not_enough() -> None:
    found = pick(server(card(0, uuid="A0"), name="a"), server(card(0, uuid="B0"), name="b"), count=2)
    assert isinstance(found, NoGPU)
    assert found.reason == "of 2 GPUs: 2 free, but not enough on one server"


def test_when_nothing_is_free_every_reason_is_counted_and_every_card_listed() -> None:
    reading = server(card(0), card(1), card(2, health=SICK), card(3, utilization_ratio=0.8), card(4, uuid=None))
    found = pick(reading, holders={"GPU-0": "anna", "GPU-1": "ben"})
    assert isinstance(found, NoGPU)
    for part in ("of 5 GPUs: 2 taken", "1 used from outside the hub", "1 out of order", "1 without a reading"):
        assert part in found.reason
    assert len(found.standings) == 5


def test_without_any_card_the_hub_says_that_it_knows_none() -> None:
    found = pick(server())
    assert isinstance(found, NoGPU)
    assert found.reason == "no GPU is known to the hub"


def test_a_session_without_gpu_goes_to_the_server_with_most_free_cards() -> None:
    full = server(card(0, uuid="A0"), name="a")
    empty = server(card(0, uuid="B0"), card(1, uuid="B1"), name="b")
    choice = pick(full, empty, holders={"A0": "anna"}, count=0)
    assert choice == Choice("b", (), "a session without GPU")


def test_a_session_without_gpu_needs_no_card_at_all() -> None:
    assert pick(server(), count=0) == Choice("gpu1", (), "a session without GPU")


def test_what_is_out_of_service_is_passed_over_with_its_reason() -> None:
    reading = server(card(0), card(1))
    assert indexes(pick(reading, closed=Closed(gpus={"GPU-0": "new fan on Monday"}))) == [1]
    found = pick(reading, closed=Closed(servers={"gpu1": "moved"}))
    assert isinstance(found, NoGPU)
    assert {(s.state, s.reason) for s in found.standings} == {(State.CLOSED, "moved")}


@pytest.mark.parametrize(
    ("cards", "holders", "why"),
    [
        ([{}], {}, "idle, 30 °C, the last free one"),
        ([{"utilization_ratio": 0.04}], {}, "4% busy, 30 °C, the last free one"),
        ([{}, {}, {}], {}, "idle, 30 °C, best of 3 free ones"),
        ([{}, {}, {}], {"GPU-0": "anna", "GPU-1": "ben"}, "idle, 30 °C, the last free one"),
        ([{"utilization_ratio": None, "temperature_celsius": None}], {}, "the last free one"),
    ],
)
def test_the_choice_is_explained(cards: list[dict[str, Any]], holders: dict[str, str], why: str) -> None:
    choice = pick(server(*(card(n, **told) for n, told in enumerate(cards))), holders=holders)
    assert choice.reason == why


# -- whatever is read -------------------------------------------------------------------------------------

HEALTHS = st.sampled_from([HEALTHY, HEALTHY, HEALTHY, SICK, Health(HealthState.HUNG)])
CARDS = st.builds(
    lambda **told: told,
    health=HEALTHS,
    utilization_ratio=st.none() | st.floats(0, 1),
    memory_used_bytes=st.none() | st.integers(0, 11 * 2**30),
    temperature_celsius=st.none() | st.integers(20, 95),
    processes=st.sampled_from([None, (), (), (Process(1),)]),
    known=st.sampled_from([True, True, True, False]),
)
FLEETS = st.lists(st.tuples(st.lists(CARDS, max_size=4), st.floats(-50, 50)), max_size=4)


def built(fleet: list[tuple[list[dict[str, Any]], float]]) -> list[ServerReading]:
    return [
        server(*(made(f"{name}-{n}", n, **told) for n, told in enumerate(cards)), name=f"gpu{name}", age_seconds=age)
        for name, (cards, age) in enumerate(fleet)
    ]


def made(uuid: str, index: int, *, known: bool, **told: Any) -> Any:
    return card(index, uuid=uuid if known else None, **told)


@given(FLEETS, st.sets(st.sampled_from([f"{s}-{n}" for s in range(4) for n in range(4)])), st.integers(0, 3))
def test_whatever_is_read_only_free_cards_of_one_server_are_given_out(
    fleet: list[tuple[list[dict[str, Any]], float]], held: set[str], count: int
) -> None:
    servers, holders = built(fleet), dict.fromkeys(held, "somebody")
    found = choose(servers, holders, count, RULES, NOW)
    by_uuid = {gpu.uuid: (reading, gpu) for reading in servers for gpu in reading.gpus if gpu.uuid}
    if isinstance(found, NoGPU):
        free = [s for s in standings(servers, holders, RULES, NOW) if s.state is State.FREE]
        assert all(sum(s.server == reading.server for s in free) < count for reading in servers) or not servers
        return
    assert len({gpu.uuid for gpu in found.gpus}) == count
    for chosen in found.gpus:
        reading, gpu = by_uuid[chosen.uuid]
        assert reading.server == found.server
        assert chosen.uuid not in held
        assert abs(NOW - reading.taken_at) <= RULES.reading_max_age_seconds
        assert gpu.health.ok
        assert not gpu.processes
        assert (gpu.utilization_ratio or 0) < RULES.busy_utilization_ratio
        assert (gpu.memory_used_bytes or 0) <= RULES.busy_memory_bytes


@given(FLEETS, st.integers(1, 3), st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_what_is_read(
    fleet: list[tuple[list[dict[str, Any]], float]], count: int, order: Any
) -> None:
    servers = built(fleet)
    shuffled = [replace(reading, gpus=tuple(order.sample(reading.gpus, len(reading.gpus)))) for reading in servers]
    order.shuffle(shuffled)
    first, second = (choose(readings, {}, count, RULES, NOW) for readings in (servers, shuffled))
    assert type(first) is type(second)
    if isinstance(first, Choice) and isinstance(second, Choice):
        assert (first.server, first.gpus) == (second.server, second.gpus)
