"""What a smoke test leaves on the hub's side: its lease, its home; and how that is removed."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docker.errors import APIError, NotFound
from sqlalchemy import select

from idl_hub.db import Reader
from idl_hub.db.accounts import SMOKE_TEST
from idl_hub.db.tables import LeaseRow
from idl_hub.gpus.leases import Lease, Phase, lease_of
from idl_hub.gpus.line import tickets_in
from idl_hub.gpus.members import Member, members_in
from idl_hub.gpus.service import marks_in
from idl_hub.homes import safe
from idl_hub.homes.patience import Patience, Silent
from idl_hub.homes.snapshots_folder import SnapshotsError, open_snapshots
from idl_hub.homes.store import HomesError, open_homes
from idl_hub.smoke.failure import SmokeError
from idl_hub.smoke.work import FILE
from idl_hub.spawners.engine import Engine
from idl_hub.spawners.host import HostError
from idl_hub.spawners.hosts import make_host, this_machine

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

    from idl_hub.settings import Settings

_CALL_SECONDS = 30.0
_LOOK_EVERY_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides whether a test may be made now."""

    members: tuple[Member, ...]
    waiting: int
    """How many students wait in the line."""
    drained: frozenset[str]
    """Servers that get no new sessions."""


class Traces:
    """Looks at the hub's tables, which it never changes, and at the homes.

    Raises
    ------
    sqlalchemy.exc.SQLAlchemyError
        From all that looks at the tables, when the database does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reader = Reader(settings.hub.database_address)
        self._files = Patience("the homes", 4)

    def close(self) -> None:
        """Let go of the database."""
        self._reader.close()

    async def situation(self) -> Situation:
        """Return who waits, and which servers there are."""

        def look(session: Session) -> Situation:
            drained = frozenset(mark.target for mark in marks_in(session) if mark.kind == "server")
            return Situation(members_in(session), len(tickets_in(session)), drained)

        return await self._reader.run(look)

    # -- the lease --------------------------------------------------------------------------------

    async def lease(self) -> Lease | None:
        """Return the live lease of the test's account."""

        def look(session: Session) -> Lease | None:
            query = select(LeaseRow).where(LeaseRow.user == SMOKE_TEST, LeaseRow.phase != Phase.ENDED)
            row = session.scalars(query).first()
            return lease_of(row) if row else None

        return await self._reader.run(look)

    async def wait_ended(self, seconds: float) -> None:
        """Return when no lease of the account is left, so that its container is gone and its GPU free.

        Raises
        ------
        SmokeError
            There was one after so many seconds.
        """
        deadline = time.monotonic() + seconds
        while lease := await self.lease():
            if time.monotonic() > deadline:
                raise SmokeError(
                    f"The hub still holds a GPU of {lease.server} for the test: its container is not gone after "
                    f"{seconds:.0f} s. See the runbook, “The Docker engine does not answer”."
                )
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    # -- the home ---------------------------------------------------------------------------------

    async def saved(self) -> str | None:
        """Return what the test saved in its home, seen from here; None where homes cannot be seen from here."""
        homes = self._settings.homes.directory
        if homes is None:
            return None

        def read() -> str:
            with safe.held(safe.open_account(homes, SMOKE_TEST)) as home, os.fdopen(safe.open_file(home, [FILE])) as at:
                return at.read(1000)

        try:
            return await self._files.call(_CALL_SECONDS, read)
        except (Silent, OSError) as error:
            raise SmokeError(
                f"What the test saved in its home is not in {homes / SMOKE_TEST} on the hub's machine ({error}). Do "
                "all servers mount the same homes? See the runbook, “The homes are not mounted”."
            ) from error

    async def home_is_there(self) -> bool:
        """Whether a home of the account is there, where that can be seen from here."""
        homes = self._settings.homes.directory or self._folder_of_homes()
        try:
            return homes is not None and await self._files.call(_CALL_SECONDS, (homes / SMOKE_TEST).exists)
        except Silent as error:
            raise _stuck(error) from error

    async def remove_home(self) -> None:
        """Remove the account's home, with its earlier versions.

        Raises
        ------
        SmokeError
            When that fails; it says what is left.
        """
        try:
            if self._settings.homes.directory is not None:
                await self._files.call(_CALL_SECONDS, self._remove_folders)
            elif folder := self._folder_of_homes():
                await self._files.call(_CALL_SECONDS, shutil.rmtree, folder / SMOKE_TEST, ignore_errors=True)
            elif not self._settings.spawner.home_volume.startswith("/"):
                await self._remove_volumes()
        except (Silent, OSError, HostError, APIError, HomesError, SnapshotsError) as error:
            raise _stuck(error) from error

    def _folder_of_homes(self) -> Path | None:
        """Return where plain processes have their homes."""
        is_process = self._settings.spawner.kind == "process"
        return self._settings.hub.state_directory / "homes" if is_process else None

    def _remove_folders(self) -> None:
        homes = self._settings.homes
        assert homes.directory is not None  # noqa: S101 - see remove_home
        with safe.held(open_homes(homes.directory)) as every:
            _remove(every)
        if homes.snapshots is not None:
            with safe.held(open_snapshots(homes.snapshots)) as every:
                _remove(every)

    async def _remove_volumes(self) -> None:
        name = self._settings.spawner.home_volume.replace("{username}", SMOKE_TEST)
        for server in self._settings.servers or [this_machine(self._settings)]:
            host = make_host(server, self._settings.spawner)
            if isinstance(host, Engine):
                with closing(host):
                    try:
                        await host.call("remove_volume", name)
                    except NotFound:
                        continue


def _remove(folder: int) -> None:
    try:
        shutil.rmtree(SMOKE_TEST, dir_fd=folder)  # follows no link, whatever was put there
    except FileNotFoundError:
        return


def _stuck(error: Exception) -> SmokeError:
    return SmokeError(
        f"The home of {SMOKE_TEST} could not be removed: {error}. It holds a small file and nothing of anybody's; the "
        "next smoke test removes it."
    )
