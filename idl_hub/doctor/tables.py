"""Looks at the databases, and at what is written in them: leases, images, what is out of service."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from jupyterhub.dbutil import ALEMBIC_DIR
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from idl_hub import db
from idl_hub.db import Reader
from idl_hub.db.tables import HubRow, LeaseGPURow, LeaseRow
from idl_hub.doctor.engines import EngineError, containers_of
from idl_hub.gpus.leases import Phase
from idl_hub.gpus.members import Member, members_in
from idl_hub.gpus.service import Mark, marks_in
from idl_hub.homes.patience import Silent
from idl_hub.images.offers import Image, in_registry, offers
from idl_hub.shell.table import moment
from idl_hub.spawners.engine import HUB_LABEL, LEASE_LABEL

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from idl_hub.doctor.look import Look
    from idl_hub.doctor.result import Found
    from idl_hub.settings import Settings
    from idl_hub.settings_servers import ServerSettings

_PAGE = "database-does-not-answer.md"
_LOOK_AGAIN_SECONDS = 3.0
"""Between two looks a container may come or go; what both see is so."""
_SEEN_DAYS = 30
_DRAINED_LONG_HOURS = 24
_RESERVED_LONG_SECONDS = 900
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Tables:
    """What other checks need of our tables."""

    readable: bool = False
    hub_id: str = ""
    members: tuple[Member, ...] = ()
    marks: tuple[Mark, ...] = ()
    image: Image | None = None
    """The student image that is offered."""
    seen: tuple[tuple[str, str, float], ...] = ()
    """(server, GPU UUID, when it was last given out) of the last month."""


def read_tables(settings: Settings) -> Tables:
    """Read them all at one moment; blocks.

    Raises
    ------
    sqlalchemy.exc.SQLAlchemyError
        They cannot be read.
    """

    def look(session: Session) -> Tables:
        named = [image for image in in_registry(session) if image.name == settings.spawner.image]
        hub = session.scalar(select(HubRow))
        return Tables(
            True,
            hub.id if hub else "",
            members_in(session),
            marks_in(session),
            next(iter(offers(named)), None),
            _seen(session),
        )

    with closing(Reader(settings.hub.database_address)) as reader:
        return reader.look(look)


def _seen(session: Session) -> tuple[tuple[str, str, float], ...]:
    rows = session.execute(
        select(LeaseRow.server, LeaseGPURow.gpu_uuid, LeaseRow.reserved_at)
        .join(LeaseGPURow.lease)
        .where(LeaseRow.reserved_at > time.time() - _SEEN_DAYS * _DAY_SECONDS)
        .order_by(LeaseRow.reserved_at)
    )
    # The last place of a card: it may have moved to another server.
    newest = {uuid: (server, uuid, at) for server, uuid, at in rows}
    return tuple(newest.values())


def seen_on(tables: Tables, server: str) -> dict[str, str]:
    """Return GPU UUID -> when it was last given out, in words, of this server's."""
    return {uuid: moment(at) for name, uuid, at in tables.seen if name == server}


# -- the databases ---------------------------------------------------------------------------------------


async def look_at_database(look: Look, name: str, found: Found) -> None:
    """Look whether a database answers, and whether its tables are those of this version."""
    hub = look.settings.hub
    if name == "idl_hub":
        address, history = hub.database_address, Path(db.__file__).parent / "history"
    else:
        given = hub.hub_database_url
        address = given.get_secret_value() if given else f"sqlite:///{hub.state_directory}/jupyterhub.sqlite"
        history = Path(ALEMBIC_DIR)

    def read() -> str | None:
        with closing(Reader(address)) as reader:
            return reader.look(lambda session: MigrationContext.configure(session.connection()).get_current_revision())

    began = time.monotonic()
    try:
        revision = await look.blocking(read)
    except (SQLAlchemyError, Silent) as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        found.fail(
            f"it does not answer ({cause}): nobody can log in or start",
            "`systemctl status postgresql`, `df -h /var/lib/postgresql`; for SQLite: the hub's state folder",
            _PAGE,
        )
        return
    newest = ScriptDirectory(str(history)).get_current_head()
    backend = make_url(address).get_backend_name()
    found.facts.append(f"{backend} answers in {1000 * (time.monotonic() - began):.0f} ms, at revision {revision}")
    if revision != newest:
        found.fail(
            f"its tables are at revision {revision}, and this version of the program wants {newest}",
            "restart the hub (`docker restart idl-hub-hub`), which brings them to its version; or go back to the "
            "version that wrote them",
            _PAGE,
        )


# -- leases and containers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Contradiction:
    lease_id: str
    words: str
    advice: str


async def look_at_leases(look: Look, server: ServerSettings, hub_id: str, found: Found) -> None:
    """Compare the ledger with the containers of one server, twice: what is under way is no contradiction."""
    try:
        first, count = await _contradictions(look, server, hub_id)
        if first:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            again, count = await _contradictions(look, server, hub_id)
            first &= again
    except (SQLAlchemyError, Silent, EngineError) as error:
        found.fail(f"ledger and containers could not be compared: {error}", "see the checks database and engine")
        return
    found.facts.append("1 session" if count == 1 else f"{count} sessions")
    for one in sorted(first, key=lambda one: one.lease_id):
        found.fail(one.words, one.advice, "gpus-not-given-out.md")


async def _contradictions(look: Look, server: ServerSettings, hub_id: str) -> tuple[set[_Contradiction], int]:
    def read() -> list[tuple[str, str, str, str | None, float]]:
        query = select(LeaseRow.id, LeaseRow.user, LeaseRow.phase, LeaseRow.container_id, LeaseRow.reserved_at).where(
            LeaseRow.server == server.name, LeaseRow.phase != Phase.ENDED
        )
        with closing(Reader(look.settings.hub.database_address)) as reader:
            return reader.look(lambda session: [row._tuple() for row in session.execute(query)])

    leases = await look.blocking(read)
    containers = await containers_of(server, hub_id, HUB_LABEL, LEASE_LABEL)
    return set(contradictions(server.name, leases, containers, time.time())), len(leases)


def contradictions(
    server: str, leases: list[tuple[str, str, str, str | None, float]], containers: dict[str, str], now: float
) -> list[_Contradiction]:
    """Say where ledger and containers of a server do not fit.

    Parameters
    ----------
    leases
        (id, user, phase, container id, when reserved) of those that have not ended.
    containers
        Container id -> lease id.
    """
    restart = "the hub looks every few seconds and mends this by itself; if it stays, `docker restart idl-hub-hub`"
    wrong = []
    for lease_id, user, phase, container, reserved_at in leases:
        if phase == Phase.LOST:
            words = f"the session of {user} is lost: its GPU stays held until its container was seen gone"
            wrong.append(_Contradiction(lease_id, words, f"when {server} is off for good: `idl-hub dead {server}`"))
        elif phase == Phase.RUNNING and container not in containers:
            words = f"{user} holds a GPU without a container (lease {lease_id})"
            wrong.append(_Contradiction(lease_id, words, restart))
        elif phase in (Phase.RESERVED, Phase.CREATING) and now - reserved_at > _RESERVED_LONG_SECONDS:
            words = f"the session of {user} has been starting for {(now - reserved_at) / 60:.0f} minutes"
            wrong.append(_Contradiction(lease_id, words, f"`idl-hub why {user}`; {restart}"))
    live = {lease_id for lease_id, *_ in leases}
    wrong += [
        _Contradiction(lease_id, f"the container {container[:12]} runs without a lease ({lease_id})", restart)
        for container, lease_id in containers.items()
        if lease_id not in live
    ]
    return wrong


# -- out of service ----------------------------------------------------------------------------------------


def look_at_service(tables: Tables, now: float, found: Found) -> None:
    """Say what gets no sessions that should: sick GPUs, and servers that were drained and perhaps forgotten."""
    for mark in tables.marks:
        long_ago = now - mark.since > _DRAINED_LONG_HOURS * 3600
        words = f"{mark.target} is out of service since {moment(mark.since)}: {mark.reason} ({mark.by})"
        back = f"`idl-hub {'undrain' if mark.kind == 'server' else 'include'} {mark.target}` brings it back"
        page = "server-gets-no-sessions.md" if mark.kind == "server" else "gpu-sick.md"
        if mark.by == "hub" or long_ago:
            found.warn(words, f"when the cause is gone, {back}", page)
        else:
            found.facts.append(f"{mark.target}: {mark.reason} ({mark.by})")
    if not tables.marks:
        found.facts.append("everything is in service")
