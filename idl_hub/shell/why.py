"""``idl-hub why NAME``: what happened to a person, in one timeline, and what to do now."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from idl_hub.db import Reader
from idl_hub.db.events import events_of_user
from idl_hub.db.tables import AccountRow, LeaseRow, OutOfServiceRow, TicketRow
from idl_hub.gpus.leases import Phase
from idl_hub.gpus.line import TicketState, positions, tickets_in
from idl_hub.gpus.members import members_in
from idl_hub.shell.table import moment

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session

    from idl_hub.settings import Settings

_SAME_SECONDS = 2.0
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the timeline."""

    at: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of a person, oldest first, and what to do."""

    known: bool
    """Whether anybody of that name was ever seen."""
    steps: tuple[Step, ...]
    now: tuple[str, ...]
    """How it stands, and what to do."""


def story(session: Session, name: str, since: float, now: float) -> Story:
    """Tell a person's story from the tables."""
    account = session.get(AccountRow, name)
    leases = list(session.scalars(select(LeaseRow).where(LeaseRow.user == name).order_by(LeaseRow.reserved_at)))
    tickets = list(session.scalars(select(TicketRow).where(TicketRow.user == name).order_by(TicketRow.created_at)))
    events = [Step(event.at, event.kind, event.text) for event in events_of_user(session, name)]
    told: list[Step] = []
    if account:
        told.append(Step(account.created_at, "login", f"first login, as {account.login!r} through {account.provider}"))
    for lease in leases:
        told += _of_lease(lease)
        told += _of_places(session, lease, now)
    for ticket in tickets:
        told += _of_ticket(ticket)
    # What the hub wrote down in words says more than what follows from the tables.
    rest = [step for step in told if not any(_same(step, event) for event in events)]
    steps = sorted((step for step in [*events, *rest] if step.at >= since), key=lambda step: step.at)
    known = bool(account or leases or tickets or events)
    return Story(known, tuple(steps), tuple(_advice(session, name, leases, tickets, events, now)))


def _same(step: Step, event: Step) -> bool:
    return step.kind == event.kind and abs(step.at - event.at) <= _SAME_SECONDS


def _of_lease(lease: LeaseRow) -> Iterator[Step]:
    yield Step(lease.reserved_at, "lease", f"{_place(lease)} reserved: {lease.reason}")
    container = f" in {lease.container_id[:12]}" if lease.container_id else ""
    if lease.ready_at is not None:
        yield Step(lease.ready_at, "start", f"the server is ready{container}")
    if lease.warned_at is not None:
        yield Step(lease.warned_at, "notice", "warned: the GPU is idle")
    if lease.ended_at is not None:
        yield Step(lease.ended_at, "stop", f"{_place(lease)} given back: {lease.ending or 'no reason on record'}")


def _place(lease: LeaseRow) -> str:
    name = f" for {lease.server_name!r}" if lease.server_name else ""
    gpus = ", ".join(str(gpu.gpu_index) for gpu in lease.gpus)
    return (f"GPU {gpus} of {lease.server}" if gpus else f"a place without GPU on {lease.server}") + name


def _of_places(session: Session, lease: LeaseRow, now: float) -> Iterator[Step]:
    """Yield what was taken out of service under a session."""
    targets = {lease.server: lease.server} | {gpu.gpu_uuid: f"GPU {gpu.gpu_index}" for gpu in lease.gpus}
    query = select(OutOfServiceRow).where(
        OutOfServiceRow.target.in_(targets),
        OutOfServiceRow.since < (lease.ended_at or now),
        or_(OutOfServiceRow.ended_at.is_(None), OutOfServiceRow.ended_at > lease.reserved_at),
    )
    for mark in session.scalars(query):
        yield Step(mark.since, "admin", f"{targets[mark.target]} out of service: {mark.reason} ({mark.by})")


def _of_ticket(ticket: TicketRow) -> Iterator[Step]:
    yield Step(ticket.created_at, "ticket", "joined the line")
    if ticket.offered_at is not None:
        yield Step(ticket.offered_at, "ticket", "a GPU came free and was reserved")
    if ticket.ready_at is not None:
        yield Step(ticket.ready_at, "ticket", "the server was ready to be opened")
    if ticket.ended_at is not None:
        ending = f": {ticket.ending}" if ticket.ending else ""
        yield Step(ticket.ended_at, "ticket", f"the place in the line ended ({ticket.state}){ending}")


def _advice(
    session: Session,
    name: str,
    leases: Sequence[LeaseRow],
    tickets: Sequence[TicketRow],
    events: Sequence[Step],
    now: float,
) -> Iterator[str]:
    live = [lease for lease in leases if lease.phase != Phase.ENDED]
    silent = {member.name: member.silent_since for member in members_in(session) if member.silent_since}
    for lease in live:
        yield _about_lease(lease, silent.get(lease.server))
    waiting = [ticket for ticket in tickets if ticket.ended_at is None]
    if waiting:
        numbers = positions(tickets_in(session))
    for ticket in waiting:
        yield _about_ticket(ticket, numbers.get(ticket.id))
    if live or waiting:
        return
    yield f"{name} has no session and no place in the line."
    errors = [step for step in events if step.kind == "error" and step.at > now - _DAY]
    if errors:
        yield f"Their last start failed: {errors[-1].text}"
        yield "Let them try again; if it fails again, look into the hub's log."
    else:
        yield "Nothing to do: they can start their server on the hub's home page."


def _about_lease(lease: LeaseRow, silent_since: float | None) -> str:
    match lease.phase:
        case Phase.RUNNING if silent_since is not None:
            return (
                f"{lease.server}, where their session is ({_place(lease)}), has not answered since "
                f"{moment(silent_since)}. They can wait or, after the grace time, start elsewhere. "
                "See the runbook, “A GPU server does not answer”."
            )
        case Phase.RUNNING:
            return f"Their session runs: {_place(lease)}, since {moment(lease.reserved_at)}. Nothing to do."
        case Phase.LOST:
            return (
                f"{lease.server} does not answer: nobody can say whether their session ({_place(lease)}) still runs, "
                "and it keeps the GPU until then. See the runbook, “A GPU server does not answer”."
            )
        case Phase.STOPPING:
            return f"Their session is being stopped ({_place(lease)}); this takes seconds."
        case _:
            return f"Their session is starting: {_place(lease)}. When this lasts for minutes, look into the hub's log."


def _about_ticket(ticket: TicketRow, position: int | None) -> str:
    if position is not None:
        return (
            f"They wait for {ticket.gpu_count} GPU(s) as number {position} in the line. `idl-hub line` shows what is "
            "expected when; the map can move them to the front."
        )
    if ticket.state == TicketState.READY:
        return "Their server is ready and waits to be opened; unopened it goes to the next in line."
    return "A GPU is reserved for them and their server is being started."


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the person's name in the hub")
    parser.add_argument("--days", type=float, default=7, metavar="N", help="how many days back (7)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(settings: Settings, arguments: argparse.Namespace) -> int:
    now = time.time()
    with closing(Reader(settings.hub.database_address)) as reader:
        found = reader.look(lambda session: story(session, arguments.name, now - arguments.days * _DAY, now))
    if not found.known:
        print(f"Nobody called {arguments.name!r} has been seen. The hub's admin page lists the names.", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    for step in found.steps:
        print(f"{moment(step.at)}  {step.kind:<7} {step.text}")
    if not found.steps:
        print(f"Nothing happened in the last {arguments.days:g} days.")
    print("\n" + "\n".join(found.now))
    return 0


COMMANDS = (("why", _run, "tell what happened to a person, and what to do now", _add_arguments),)
