"""``idl-hub quiet`` and ``idl-hub end``: what maintenance asks before and when it takes a server away."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from idl_hub.db import Reader
from idl_hub.db.tables import LeaseRow
from idl_hub.gpus.leases import Phase
from idl_hub.quiet import quiet_words
from idl_hub.shell.ask import ask

if TYPE_CHECKING:
    import argparse

    from sqlalchemy.orm import Session

    from idl_hub.settings import Settings


def _add_nothing(_parser: argparse.ArgumentParser) -> None:
    pass


def _quiet(settings: Settings, _arguments: argparse.Namespace) -> int:
    words = quiet_words(settings.quiet, datetime.now(UTC))
    print(words or "No deadline is near.")
    return 1 if words else 0


def _add_end_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER", help="name of the server, as `idl-hub servers` shows it")
    parser.add_argument("--message", default="its server is needed for maintenance", help="what its holder reads")


def _end(settings: Settings, arguments: argparse.Namespace) -> int:
    """Ask for the end of each session; one that cannot be ended does not keep the others."""

    def of_server(session: Session) -> list[str]:
        live = select(LeaseRow.id).where(LeaseRow.server == arguments.server, LeaseRow.phase != Phase.ENDED.value)
        return list(session.scalars(live.order_by(LeaseRow.reserved_at)))

    with closing(Reader(settings.hub.database_address)) as reader:
        leases = reader.look(of_server)
    if not leases:
        print(f"No session runs on {arguments.server}.")
        return 0
    asked = [{"lease_id": lease, "message": arguments.message} for lease in leases]
    return max([ask(settings, "end_session", one) for one in asked])


COMMANDS = (
    ("quiet", _quiet, "say whether a deadline is so near that nothing may be changed; ends with 1 then", _add_nothing),
    ("end", _end, "end all sessions of a server; their holders are told and documents saved", _add_end_arguments),
)
