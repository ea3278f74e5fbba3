"""The line: first come, first served, nobody waits while a fitting GPU is free, and no place is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from sqlalchemy import select

from idl_hub.db import Database
from idl_hub.db.tables import TicketRow
from idl_hub.gpus.leases import Lease, Leases, new_lease_id
from idl_hub.gpus.line import Expectation, Line, Outlook, Ticket, TicketState, expectation, positions
from idl_hub.gpus.placement import Choice, ChosenGPU, NoGPU


class Fleet:
    """Two servers with GPUs that can be switched off."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.gpus = {f"{server}-{number}": server for server, size in sizes.items() for number in range(size)}
        self.off: set[str] = set()

    def choose(self, holders: Mapping[str, str], gpu_count: int) -> Choice | NoGPU:
        for server in sorted(set(self.gpus.values())):
            free = [
                uuid for uuid, on in self.gpus.items() if on == server and uuid not in holders | dict.fromkeys(self.off)
            ]
            if len(free) >= gpu_count:
                return Choice(server, tuple(ChosenGPU(uuid, 0, "GPU") for uuid in free[:gpu_count]), "free")
        return NoGPU("none", ())


class Desk:
    """A ledger, a line and a fleet, asked without a loop of one's own."""

    def __init__(self, database: Database, sizes: Mapping[str, int]) -> None:
        self.database = database
        self.fleet = Fleet(sizes)
        self.now = 1000.0
        self.leases = Leases(database, self.tick)
        self.line = Line(database, self.tick)

    def tick(self) -> float:
        self.now += 1
        return self.now

    def ask(self, user: str, gpu_count: int = 1, options: Mapping[str, Any] | None = None) -> Lease | Ticket | NoGPU:
        return asyncio.run(
            self.line.acquire(new_lease_id(), user, "", gpu_count, options or {"gpu": "one"}, self.fleet.choose)
        )

    def leave(self, lease: Lease) -> None:
        asyncio.run(self.leases.end(lease.id, "done"))

    def tickets(self) -> tuple[Ticket, ...]:
        return asyncio.run(self.line.live())

    def waiting(self) -> list[str]:
        return [ticket.user for ticket in self.tickets() if ticket.state is TicketState.WAITING]

    def serve(self) -> list[Lease]:
        leases = []
        while offered := asyncio.run(self.line.offer_next(new_lease_id(), self.fleet.choose)):
            leases.append(offered[1])
        return leases


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    database = Database(f"sqlite:///{tmp_path}/line.sqlite")
    database.upgrade()
    yield Desk(database, {"a": 2})
    database.close()


def lease(found: object) -> Lease:
    assert isinstance(found, Lease)
    return found


def ticket(found: object) -> Ticket:
    assert isinstance(found, Ticket)
    return found


def test_when_all_is_taken_one_gets_a_place_and_asking_again_keeps_it(desk: Desk) -> None:
    lease(desk.ask("anna"))
    lease(desk.ask("ben"))
    first = ticket(desk.ask("clara"))
    ticket(desk.ask("david"))
    again = ticket(desk.ask("clara", options={"gpu": "one", "my_packages": "no"}))
    assert again.id == first.id
    assert again.options == {"gpu": "one", "my_packages": "no"}
    assert desk.waiting() == ["clara", "david"]
    assert positions(desk.tickets())[first.id] == 1


def test_a_free_gpu_goes_to_the_first_in_line_not_to_who_asks_now(desk: Desk) -> None:
    held = lease(desk.ask("anna"))
    lease(desk.ask("ben"))
    ticket(desk.ask("clara"))
    desk.leave(held)
    ticket(desk.ask("emre"))
    [offered] = desk.serve()
    assert offered.user == "clara"
    assert desk.waiting() == ["emre"]


def test_who_was_offered_a_gpu_gets_that_one(desk: Desk) -> None:
    held = lease(desk.ask("anna"))
    lease(desk.ask("ben"))
    ticket(desk.ask("clara"))
    desk.leave(held)
    [offered] = desk.serve()
    assert lease(desk.ask("clara")).id == offered.id


def test_the_first_in_line_who_asks_again_gets_the_free_gpu(desk: Desk) -> None:
    held = lease(desk.ask("anna"))
    lease(desk.ask("ben"))
    ticket(desk.ask("clara"))
    desk.leave(held)
    got = lease(desk.ask("clara"))
    [own] = desk.tickets()
    assert (own.state, own.lease_id) == (TicketState.OFFERED, got.id)


def test_a_request_that_does_not_fit_lets_those_behind_it_pass(desk: Desk) -> None:
    held = lease(desk.ask("anna"))
    lease(desk.ask("ben"))
    ticket(desk.ask("lecturer", 2))
    ticket(desk.ask("clara"))
    desk.leave(held)
    assert [offered.user for offered in desk.serve()] == ["clara"]
    assert desk.waiting() == ["lecturer"]


def test_starting_without_a_gpu_leaves_the_line(desk: Desk) -> None:
    lease(desk.ask("anna", 2))
    ticket(desk.ask("ben"))
    assert lease(desk.ask("ben", 0)).gpus == ()
    assert desk.tickets() == ()


def test_an_offer_that_came_to_nothing_keeps_the_place_three_times(desk: Desk) -> None:
    lease(desk.ask("anna", 2))
    place = ticket(desk.ask("ben"))
    ticket(desk.ask("clara"))
    for state in (TicketState.WAITING, TicketState.WAITING, TicketState.FAILED):
        assert asyncio.run(desk.line.wait_again(place.id, 3)) is state
    assert desk.waiting() == ["clara"]


def test_somebody_can_be_moved_to_the_front_and_it_is_recorded(desk: Desk) -> None:
    lease(desk.ask("anna", 2))
    ticket(desk.ask("ben"))
    last = ticket(desk.ask("clara"))
    assert asyncio.run(desk.line.to_front(last.id, "lecturer")) is not None
    assert desk.waiting() == ["clara", "ben"]
    row = desk.database.transact(lambda session: session.scalar(select(TicketRow).where(TicketRow.id == last.id)))
    assert row is not None
    assert row.moved_by == "lecturer"


def test_the_line_survives_a_restart(desk: Desk) -> None:
    lease(desk.ask("anna", 2))
    ticket(desk.ask("ben"))
    ticket(desk.ask("clara"))
    again = Desk(desk.database, {"a": 2})
    assert again.waiting() == ["ben", "clara"]


def test_expectations_come_from_session_limits_and_idle_gpus_or_are_unknown() -> None:
    outlooks = [Outlook("a", 7200.0, None), Outlook("b", 9000.0, 1200.0), Outlook("c", None, None)]
    assert expectation(1, outlooks, 0) == Expectation(1200.0, "in 20 min at the latest, sooner when somebody stops")
    assert expectation(2, outlooks, 0).at == 7200.0
    assert expectation(3, outlooks, 0).at is None
    assert "unknown" in expectation(3, outlooks, 0).text
    assert expectation(1, outlooks, 1199).text == "any moment now"


def test_a_line_of_two_hundred_costs_one_choice_for_each_number_of_gpus(desk: Desk) -> None:
    lease(desk.ask("anna", 2))
    for number in range(200):
        ticket(desk.ask(f"p{number}", 1 + number % 2))
    asked: list[int] = []

    def choose(holders: Mapping[str, str], gpu_count: int) -> Choice | NoGPU:
        asked.append(gpu_count)
        return desk.fleet.choose(holders, gpu_count)

    assert asyncio.run(desk.line.offer_next(new_lease_id(), choose)) is None
    assert asked == [1]
    asked.clear()
    ticket(asyncio.run(desk.line.acquire(new_lease_id(), "late", "", 2, {}, choose)))
    assert asked == [1, 2]


class LineMachine(RuleBasedStateMachine):
    """Any sequence of asking, leaving, failing, breaking and restarting."""

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        database = Database("sqlite://")
        # One connection: a database in memory is each connection's own.
        from sqlalchemy import create_engine
        from sqlalchemy.pool import StaticPool

        database.engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        from idl_hub.db.tables import Base

        Base.metadata.create_all(database.engine)
        self.desk = Desk(database, {"a": 2, "b": 3})
        self.held: dict[str, Lease] = {}
        self.people = 0

    @rule(target=sessions, gpu_count=st.sampled_from([0, 1, 1, 1, 2, 3]))
    def somebody_new_asks(self, gpu_count: int) -> str:
        self.people += 1
        name = f"p{self.people}"
        self._take(self.desk.ask(name, gpu_count))
        return name

    @rule(name=sessions)
    def somebody_asks_again(self, name: str) -> None:
        if name not in self.held:
            self._take(self.desk.ask(name))

    @rule(name=consumes(sessions))
    def somebody_stops(self, name: str) -> None:
        if name in self.held:
            self.desk.leave(self.held.pop(name))

    @rule(name=sessions)
    def an_offer_comes_to_nothing(self, name: str) -> None:
        own = next((ticket for ticket in self.desk.tickets() if ticket.user == name), None)
        if own and own.state is TicketState.OFFERED and name in self.held:
            self.desk.leave(self.held.pop(name))
            asyncio.run(self.desk.line.wait_again(own.id, 3))

    @rule(uuid=st.sampled_from(["a-0", "a-1", "b-0", "b-1", "b-2"]))
    def a_gpu_breaks_or_comes_back(self, uuid: str) -> None:
        self.desk.fleet.off ^= {uuid}

    @rule()
    def the_hub_restarts(self) -> None:
        fleet = self.desk.fleet
        self.desk = Desk(self.desk.database, {})
        self.desk.fleet = fleet
        self.desk.now += 10_000

    def _take(self, found: object) -> None:
        if isinstance(found, Lease):
            self.held[found.user] = found

    @invariant()
    def no_gpu_has_two_holders_and_none_leaks(self) -> None:
        live = asyncio.run(self.desk.leases.live())
        uuids = [gpu.uuid for one in live for gpu in one.gpus]
        assert len(uuids) == len(set(uuids))
        assert {one.id for one in live} == {one.id for one in self.held.values()}

    @invariant()
    def nobody_waits_while_a_fitting_gpu_is_free(self) -> None:
        for offered in self.desk.serve():
            self.held[offered.user] = offered
        holders = {gpu.uuid: "x" for one in self.held.values() for gpu in one.gpus}
        for place in self.desk.tickets():
            if place.state is TicketState.WAITING:
                assert isinstance(self.desk.fleet.choose(holders, place.gpu_count), NoGPU)

    def teardown(self) -> None:
        self.desk.database.close()


LineMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLine = LineMachine.TestCase
