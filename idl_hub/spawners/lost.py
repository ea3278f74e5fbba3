"""Sessions whose server does not answer: told to their holders, given up when they say so, made up for at its return.

A short silence changes nothing. After the grace time the holder may start elsewhere: the silent server is cut off from
the homes first, or the holder takes the risk of two writers. The old session is then called lost; the keeper removes
it when its server is back, and only after that the server may write to the homes and gets sessions again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

from idl_hub.gpus.fences import Fences, left_behind
from idl_hub.gpus.leases import Lease, Phase
from idl_hub.gpus.members import members_in
from idl_hub.gpus.silence import FENCED, Fence, Stage, may_lift, stage
from idl_hub.homes import fence_command
from idl_hub.homes.fence_command import FenceError
from idl_hub.spawners.executor import Executor, Refused
from idl_hub.spawners.hub_api import HubAPI, HubAPIError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from idl_hub.db import Database
    from idl_hub.db.commands import Command
    from idl_hub.db.events import Events
    from idl_hub.gpus.service import OutOfService
    from idl_hub.settings import Settings
    from idl_hub.spawners.keeper import Keeper

log = logging.getLogger("idl_hub.lost")
_LOOK_EVERY_SECONDS = 1.0
_AGAIN_SECONDS = 15.0
"""Time between two tries to let a returned server write to the homes."""
_CLEANED_SECONDS = 60.0
_RESTART_SECONDS = 300.0
"""A silence goes on when the hub was away for less."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What the home page says about a session whose server does not answer."""

    server: str
    since: str
    """That it does not answer, and since when, in words."""
    offered: bool
    """Whether its holder may start elsewhere already."""


class Lost:
    """One per hub, run inside its loop."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        keeper: Keeper,
        out_of_service: OutOfService,
        events: Events,
        api: HubAPI,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._homes = settings.homes
        self._grace_seconds = settings.spawner.server_lost_minutes * 60
        self._zone = ZoneInfo(settings.quiet.time_zone)
        self._database = database
        self._fences = Fences(database, clock)
        self._keeper = keeper
        self._out_of_service = out_of_service
        self._events = events
        self._api = api
        self._clock = clock
        self._open = {fence.lease_id: fence for fence in self._fences.load()}
        for member in database.transact(members_in):
            if member.silent_since is not None and clock() < member.said_at + _RESTART_SECONDS:
                keeper.was_silent(member.name, member.silent_since)
        self._ended: set[str] = set()
        self._told: set[tuple[str, float]] = set()
        self._again_at: dict[str, float] = {}
        self._cutting: dict[str, asyncio.Lock] = {}
        self.on_returned: Callable[[], None] = lambda: None
        """Called when a server may get sessions again."""

    def execute_for(self, executor: Executor) -> None:
        """Take over the requests about sessions on silent servers."""
        executor.add("start_elsewhere", self._start_elsewhere)
        executor.add("declare_dead", self._declare_dead)
        executor.end_silent = self._end_silent

    # -- what others ask --------------------------------------------------------------------------------

    @property
    def closed_servers(self) -> frozenset[str]:
        """Servers that get no session before what was given up there is gone."""
        return frozenset(fence.server for fence in self._open.values())

    def given_up(self, lease_id: str) -> bool:
        """Whether this session was given up, so that JupyterHub should let it go without asking its server."""
        fence = self._open.get(lease_id)
        return lease_id in self._ended or (fence is not None and fence.holds)

    def silent_since(self, server: str) -> float | None:
        """Return since when a server does not answer; None when it does, or nobody has asked it yet."""
        silence = self._keeper.silence(server)
        if silence is not None:
            return silence.since
        return None if server in self._keeper.hosts else 0.0  # it is not in the settings any more

    def notice(self, lease: Lease | None) -> Notice | None:
        """Say what the holder should know about the server of this session; None when it answers."""
        since = self.silent_since(lease.server) if lease is not None else None
        if lease is None or since is None:
            return None
        offered = self._stage(lease) is not Stage.WAIT
        return Notice(lease.server, self._since_words(lease.server), offered)

    async def why_no_start(self, user: str, server_name: str) -> str:
        """Say why this server may not be started yet, in words with the way on; empty when it may.

        Its earlier session may still run on a silent server and write to the same home.
        """
        await self._read()
        for lease in await self._database.run(lambda session: left_behind(session, user, server_name)):
            if self.silent_since(lease.server) is None and self._keeper.has_answered(lease.server):
                task = self._keeper.give_back_soon(lease, "its stop was cut off")
                await asyncio.wait({task}, timeout=_CLEANED_SECONDS)
                continue
            if self._stage(lease) is not Stage.FREE:
                return (
                    f"{lease.server}, where your last session ran, {self._since_words(lease.server)}. What runs there "
                    "may still write to your files."
                )
        return ""

    # -- watching ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # the watch must outlive any fault, and say it
                log.exception("Looking after silent servers failed; trying again")
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def look(self) -> None:
        """Look at every server once."""
        live = await self._keeper.leases.live()
        await self._read()
        for name in list(self._keeper.hosts):
            await self._tell_of_silence(name, [lease for lease in live if lease.server == name])
        for fence in list(self._open.values()):
            if fence.holds and fence.stopped_at is None:
                await self._let_go(fence, live)
        for server in self.closed_servers:
            self._lift_if_back(server, {lease.id for lease in live})
        await self._show_closed()

    async def _read(self) -> None:
        self._open = {fence.lease_id: fence for fence in await self._fences.open()}

    async def _tell_of_silence(self, name: str, leases: list[Lease]) -> None:
        """After the grace time, tell all whose sessions are there, once."""
        silence = self._keeper.silence(name)
        if silence is None or (name, silence.since) in self._told:
            return
        if self._clock() < silence.since + self._grace_seconds:
            return
        self._told.add((name, silence.since))
        text = f"{name} {self._since_words(name)}"
        log.warning("%s: %s", text, silence.why)
        await self._events.note("error", f"{text} ({silence.why}); {len(leases)} sessions are there", server=name)
        for lease in leases:
            told = f"{text}; a start elsewhere is offered"
            await self._events.note("notice", told, user=lease.user, server=name, lease_id=lease.id)

    async def _show_closed(self) -> None:
        closed = self.closed_servers
        shown = {mark.target for mark in self._out_of_service.marks if mark.kind == FENCED}
        for server in closed - shown:
            reason = "sessions that were given up when it was silent are not gone yet"
            await self._out_of_service.begin(FENCED, server, reason, "hub")
        for server in shown - closed:
            await self._out_of_service.finish(FENCED, server, "hub")

    # -- giving up --------------------------------------------------------------------------------------------

    async def _start_elsewhere(self, command: Command) -> str:
        """Give up a session for its holder, who then may start another one."""
        lease = await self._lease(str(command.arguments.get("lease_id", "")))
        where = self._stage(lease)
        if where is Stage.ANSWERS:
            raise Refused(f"{lease.server} answers again. Nothing was changed: open your server.")
        if where is Stage.WAIT:
            since = self.silent_since(lease.server) or self._clock()
            at = self._words(since + self._grace_seconds)
            raise Refused(f"{lease.server} may be back any moment. You can start elsewhere from {at} on.")
        if where in (Stage.LETTING_GO, Stage.FREE):
            return "Your old session is given up; start your server."
        if command.arguments.get("risk") is True:
            await self._accept(lease, command.asked_by)
            return f"Your session on {lease.server} is given up, at your risk."
        if not self._homes.fence_command:
            raise Refused(f"Say that you take the risk: {lease.server} cannot be kept from writing to your files.")
        if where is not Stage.CUTTING:
            await self._begin_to_cut(lease, command.asked_by)
        return f"{lease.server} is being cut off from your files."

    async def _end_silent(self, lease: Lease, by: str) -> str | None:
        """End a session for an admin although its server is silent: called lost at once, and cut off where that works.

        None when its server answers, so that the usual way is open.
        """
        if self.silent_since(lease.server) is None:
            return None
        said = f"{lease.server} does not answer. The session of {lease.holder} is given up and removed at its return"
        if self.given_up(lease.id):
            return f"{said} already."
        if self._homes.fence_command:
            await self._begin_to_cut(lease, by)
        await self._keeper.leases.advance(lease.id, Phase.LOST)
        self._ended.add(lease.id)
        self._keeper.own(self._end(lease))
        return f"{said}; its GPUs stay held until then."

    async def _declare_dead(self, command: Command) -> str:
        """End all sessions of a silent server on an admin's word that nothing runs there any more."""
        server = str(command.arguments.get("server", ""))
        leases = [lease for lease in await self._keeper.leases.live() if lease.server == server]
        if self.silent_since(server) is None:
            raise Refused(f"{server} answers, or has not been asked yet. Nothing was changed.")
        for lease in leases:
            # What nevertheless runs when the server is back belongs to no session then, and is removed.
            await self._keeper.end_unused(lease, f"{server} was declared dead by {command.asked_by}")
            self._ended.add(lease.id)
            await self._note("stop", f"ended: {server} was declared dead by {command.asked_by}", lease)
            self._keeper.own(self._end(lease))
        return f"{server} is taken for dead: {len(leases)} sessions have ended, and their students may start elsewhere."

    async def _begin_to_cut(self, lease: Lease, by: str) -> None:
        await self._fences.ask(lease, by)
        self._open[lease.id] = Fence(lease.id, lease.server, lease.user, by, called=True)
        self._keeper.own(self._cut(lease, by))

    async def _cut(self, lease: Lease, by: str) -> None:
        """Cut the server off from the home of this session, and give it up; or note why that failed."""
        async with self._lock(lease.server):
            # Once more: the server may have been back, and let in, and gone again before it was our turn.
            await self._fences.ask(lease, by)
            if self._keeper.has_answered(lease.server):
                await self._fences.fail(lease.id, f"{lease.server} answers again")
                return
            try:
                await self._call("fence", lease.server, lease.user)
            except FenceError as error:
                await self._fences.fail(lease.id, str(error))
                await self._note("error", f"{lease.server} could not be cut off from the homes: {error}", lease)
                return
            if self._keeper.has_answered(lease.server):
                # Nothing needs to be given up; the next look lets it write again.
                await self._fences.fail(lease.id, f"{lease.server} answers again")
                return
            was_live = await self._fences.cut(lease)
        await self._note("stop", f"given up by {by}: {lease.server} is cut off from the home", lease)
        await self._gave_up(lease, was_live)

    async def _accept(self, lease: Lease, by: str) -> None:
        risk = f"given up by {by}, who knows that what still runs on {lease.server} may write to the home"
        await self._note("stop", risk, lease)
        await self._gave_up(lease, await self._fences.accept(lease, by))

    async def _gave_up(self, lease: Lease, was_live: bool) -> None:
        await self._read()
        if was_live and (fence := self._open.get(lease.id)):
            await self._let_go(fence, await self._keeper.leases.live())

    async def _let_go(self, fence: Fence, live: Iterable[Lease]) -> None:
        """Have JupyterHub let the session go, which asks nothing of its server; the next look tries again."""
        lease = next((lease for lease in live if lease.id == fence.lease_id), None)
        if lease is None or await self._stop(lease):
            await self._fences.stopped(fence.lease_id)
            await self._read()

    async def _end(self, lease: Lease) -> None:
        await self._stop(lease)

    async def _stop(self, lease: Lease) -> bool:
        """Ask JupyterHub to let a session go; False when it should be asked again."""
        try:
            await self._api.stop(lease.user, lease.server_name)
        except HubAPIError as error:
            log.info("JupyterHub has not let the session of %s go yet: %s", lease.holder, error)
            return False
        return True

    # -- the return -------------------------------------------------------------------------------------------

    def _lift_if_back(self, server: str, live: set[str]) -> None:
        """Begin to let a server write to the homes and have sessions again, once what was given up there is gone."""
        fences = [fence for fence in self._open.values() if fence.server == server]
        answers = server not in self._keeper.hosts or self._keeper.has_answered(server)
        due = self._clock() >= self._again_at.get(server, 0) and not self._lock(server).locked()
        if due and all(may_lift(fence, answers, fence.lease_id in live) for fence in fences):
            self._keeper.own(self._lift(server, fences))

    async def _lift(self, server: str, fences: list[Fence]) -> None:
        async with self._lock(server):
            try:
                for account in sorted({fence.user for fence in fences if fence.called}):
                    await self._call("unfence", server, account)
            except FenceError as error:
                self._again_at[server] = self._clock() + _AGAIN_SECONDS
                log.warning("%s is not let back to the homes yet: %s", server, error)
                await self._events.note("error", f"{server} is not let back to the homes: {error}", server=server)
                return
            for fence in fences:
                await self._fences.lift(fence.lease_id)
            await self._read()
        log.warning("%s is back; what was given up there is gone", server)
        await self._events.note("admin", f"{server} is back; what was given up there is gone", server=server)
        self.on_returned()

    def _lock(self, server: str) -> asyncio.Lock:
        """Return the lock under which this server is cut off or let back."""
        return self._cutting.setdefault(server, asyncio.Lock())

    async def _call(self, verb: Literal["fence", "unfence"], server: str, account: str) -> None:
        command = self._homes.fence_command
        if command:  # the setting may have been taken out since a server was cut off
            await fence_command.call(command, verb, server, account, self._homes.fence_seconds)

    # -- words ------------------------------------------------------------------------------------------------

    def _stage(self, lease: Lease) -> Stage:
        since, fence = self.silent_since(lease.server), self._open.get(lease.id)
        return stage(since, fence, self._grace_seconds, self._clock())

    def _since_words(self, server: str) -> str:
        since = self.silent_since(server)
        if since is None:
            return "has not been heard since the hub started"
        return f"has not answered since {self._words(since)}" if since else "is not in the settings any more"

    def _words(self, at: float) -> str:
        """Return a time as the clock of the course shows it, with the day when it is another one."""
        moment, now = (datetime.fromtimestamp(value, self._zone) for value in (at, self._clock()))
        return f"{moment:%H:%M}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M}"

    async def _lease(self, lease_id: str) -> Lease:
        for lease in await self._keeper.leases.live():
            if lease.id == lease_id:
                return lease
        raise Refused("This session has ended already. Start your server.")

    async def _note(self, kind: str, text: str, lease: Lease) -> None:
        log.warning("%s: %s", lease.holder, text)
        await self._events.note(kind, text, user=lease.user, server=lease.server, lease_id=lease.id)
