"""Watches running sessions: writes down how GPUs are used, warns who lets one idle, ends what must end."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from idl_hub.db.tables import LeaseGPURow, LeaseRow
from idl_hub.gpus import reclaim
from idl_hub.gpus.leases import Lease, Phase
from idl_hub.gpus.line import TicketState
from idl_hub.gpus.reclaim import Action
from idl_hub.spawners.executor import Executor, Refused
from idl_hub.spawners.hub_api import HubAPI, HubAPIError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session as DatabaseSession

    from idl_hub.db import Database
    from idl_hub.db.commands import Command
    from idl_hub.db.events import Events
    from idl_hub.gpus.fleet import Fleet
    from idl_hub.gpus.idle import IdleTracker
    from idl_hub.gpus.line import Line

log = logging.getLogger("idl_hub.sessions")
_LOOK_EVERY_SECONDS = 1.0
_WRITE_EVERY_SECONDS = 30.0


@dataclass(slots=True)
class _Use:
    measured_seconds: float = 0.0
    busy_seconds: float = 0.0


class Sessions:
    """One per hub, run inside its loop.

    Parameters
    ----------
    policy
        How long a session may idle and last.
    silent
        Whether a server does not answer: its sessions are judged when it does, since nobody could tell their holders.
    """

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        idle: IdleTracker,
        line: Line,
        events: Events,
        api: HubAPI,
        policy: reclaim.Policy,
        clock: Callable[[], float] = time.time,
        silent: Callable[[str], bool] = lambda _server: False,
    ) -> None:
        self._silent = silent
        self._database = database
        self._fleet = fleet
        self._idle = idle
        self._line = line
        self._events = events
        self._api = api
        self._policy = policy
        self._clock = clock
        self._uses: dict[tuple[str, str], _Use] = {}
        self._looked_at: float | None = None
        self._write_at = time.monotonic() + _WRITE_EVERY_SECONDS

    def execute_for(self, executor: Executor) -> None:
        """Take over the requests of people for their own sessions."""
        executor.add("keep", self._keep)
        executor.add("extend", self._extend)

    async def run(self) -> None:
        """Watch until cancelled; then write down what was measured."""
        try:
            while True:
                try:
                    await self.look()
                except Exception:  # the watch must outlive any fault, and say it
                    log.exception("Watching the sessions failed; trying again")
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
        finally:
            self._write_use_at_the_end()

    async def look(self) -> None:
        """Look at every running session once."""
        servers = self._fleet.servers()
        self._idle.follow(servers)
        rows = await self._database.run(_running)
        self._measure(rows)
        if time.monotonic() >= self._write_at:
            self._write_at = time.monotonic() + _WRITE_EVERY_SECONDS
            await self._write_use()
        wanted = sum(ticket.gpu_count for ticket in await self._line.live() if ticket.state is TicketState.WAITING)
        # The longest idle come first, and no more of them than those in line can use.
        judged = [row for row in rows if (row.gpus or row.ends_at) and not self._silent(row.server)]
        for row in sorted(judged, key=self._idle_since):
            await self._judge(row, others_wait=wanted > 0)
            wanted -= len(row.gpus)

    def _session(self, row: LeaseRow) -> reclaim.Session:
        return reclaim.session_of(row, self._idle.idle_since(gpu.gpu_uuid for gpu in row.gpus))

    def _idle_since(self, row: LeaseRow) -> float:
        since = self._session(row).idle_since
        return math.inf if since is None else since

    def _measure(self, rows: list[LeaseRow]) -> None:
        now = time.monotonic()
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, 10 * _LOOK_EVERY_SECONDS)
        self._looked_at = now
        ratios = {
            gpu.uuid: gpu.utilization_ratio
            for server in self._fleet.servers()
            for gpu in server.gpus
            if gpu.utilization_ratio is not None
        }
        for row in rows:
            for gpu in row.gpus:
                ratio = ratios.get(gpu.gpu_uuid)
                if ratio is not None:
                    use = self._uses.setdefault((row.id, gpu.gpu_uuid), _Use())
                    use.measured_seconds += passed
                    use.busy_seconds += passed * ratio

    async def _write_use(self) -> None:
        uses, self._uses = self._uses, {}
        if uses:
            await self._database.run(lambda session: _add_use(session, uses))

    def _write_use_at_the_end(self) -> None:
        # The loop is about to close and would not wait, so this blocks it for one short transaction.
        uses, self._uses = self._uses, {}
        if uses:
            self._database.transact(lambda session: _add_use(session, uses))

    async def _judge(self, row: LeaseRow, *, others_wait: bool) -> None:
        session = self._session(row)
        action = reclaim.decide(session, self._policy, self._clock(), others_wait=others_wait)
        if action is Action.WARN:
            await self._change(row.id, warned_at=self._clock())
            await self._note("notice", "warned: the GPU is idle", row)
        elif action is Action.UNWARN:
            await self._change(row.id, warned_at=None)
            await self._note("notice", "the warning is over: the GPU is used again, kept, or nobody waits", row)
        elif action is Action.STOP_IDLE:
            await self._stop(
                row, "the GPU was idle while others waited" if others_wait else "the GPU was idle too long"
            )
        elif action is Action.STOP_LENGTH:
            await self._stop(row, row.end_message or "the longest time for a session was over")
        if session.kept_at is not None and session.idle_since is not None and session.idle_since > session.kept_at:
            await self._change(row.id, kept_at=None)

    async def _stop(self, row: LeaseRow, why: str) -> None:
        try:
            await self._api.stop(row.user, row.server_name)
        except HubAPIError as error:
            log.warning("The session of %s is not stopped yet: %s", row.user, error)
            return
        await self._note("stop", f"stopped: {why}", row)

    async def _keep(self, command: Command) -> str:
        lease = await self._own(command)
        if lease.warned_at is None:
            raise Refused("Your GPU is not about to be taken back.")
        if lease.kept_at is not None:
            raise Refused("You have kept this GPU once already without using it. Run something on it.")
        await self._change(lease.id, warned_at=None, kept_at=self._clock())
        await self._note("notice", "kept by its holder", lease)
        return "You keep your GPU. Use it soon: this works once until it is used again."

    async def _extend(self, command: Command) -> str:
        lease = await self._own(command)
        if lease.ends_at is None:
            raise Refused("Your session has no set end.")
        if lease.end_message is not None:
            raise Refused(lease.end_message)
        if any(ticket.state is TicketState.WAITING for ticket in await self._line.live()):
            raise Refused("Others wait for a GPU, so your session cannot be made longer.")
        ends_at = max(lease.ends_at, self._clock() + self._policy.extension_seconds)
        await self._change(lease.id, ends_at=ends_at)
        await self._note("notice", "made longer by its holder", lease)
        return "Your session has been made longer."

    async def _own(self, command: Command) -> LeaseRow:
        lease_id = str(command.arguments.get("lease_id", ""))
        for row in await self._database.run(_running):
            if row.id == lease_id:
                return row
        raise Refused("This session has ended already.")

    async def _change(self, lease_id: str, **values: float | None) -> None:
        def write(session: DatabaseSession) -> None:
            row = session.get_one(LeaseRow, lease_id)
            for name, value in values.items():
                setattr(row, name, value)

        await self._database.run(write)

    async def _note(self, kind: str, text: str, row: LeaseRow) -> None:
        log.info("%s: %s", row.user, text)
        await self._events.note(kind, text, user=row.user, server=row.server, lease_id=row.id)


def ends_at(lease: Lease, policy: reclaim.Policy, now: float) -> float | None:
    """Return when a session that is ready now must end; sessions without GPU have no set end."""
    return now + policy.longest_seconds if lease.gpus and policy.longest_seconds is not None else None


def _running(session: DatabaseSession) -> list[LeaseRow]:
    return list(session.scalars(select(LeaseRow).where(LeaseRow.phase == Phase.RUNNING)))


def _add_use(session: DatabaseSession, uses: Mapping[tuple[str, str], _Use]) -> None:
    for (lease_id, gpu_uuid), use in uses.items():
        row = session.scalar(
            select(LeaseGPURow).where(LeaseGPURow.lease_id == lease_id, LeaseGPURow.gpu_uuid == gpu_uuid)
        )
        if row is not None:
            row.measured_seconds += use.measured_seconds
            row.busy_seconds += use.busy_seconds
