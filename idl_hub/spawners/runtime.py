"""What lives as long as the hub: ledger, fleet, hosts and their keeper. Owned by a task of the hub's loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from idl_hub.db.accounts import SMOKE_TEST, Accounts
from idl_hub.db.commands import Commands
from idl_hub.db.events import Events
from idl_hub.gpus import fleet
from idl_hub.gpus.idle import IdleTracker
from idl_hub.gpus.leases import Lease, Leases, Phase, new_lease_id
from idl_hub.gpus.line import Line, Ticket, TicketState
from idl_hub.gpus.placement import NO_WISH, Choice, NoGPU, State, Wish
from idl_hub.gpus.reclaim import policy_from
from idl_hub.gpus.service import ORPHAN, OutOfService
from idl_hub.homes.store import Homes
from idl_hub.images.keeper import Images
from idl_hub.spawners.engine import Engine
from idl_hub.spawners.executor import Executor
from idl_hub.spawners.host import HostError
from idl_hub.spawners.keeper import Keeper
from idl_hub.spawners.line_keeper import LineKeeper
from idl_hub.spawners.lost import Lost
from idl_hub.spawners.members import Members
from idl_hub.spawners.metrics import HubMetrics
from idl_hub.spawners.reload import Reload
from idl_hub.spawners.sessions import Sessions, ends_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idl_hub.db import Database
    from idl_hub.gpus.placement import Closed
    from idl_hub.settings import Settings
    from idl_hub.spawners.host import Host
    from idl_hub.spawners.hub_api import HubAPI

log = logging.getLogger("idl_hub")
_FIRST_READING_SECONDS = 10
_ANSWER_SECONDS = 5
_OUT_OF_MEMORY_EVERY_SECONDS = 60
_SHOW_EVERY_SECONDS = 2.0


class Runtime:
    """One per hub process. Made before the hub's loop serves anybody, run inside it.

    Parameters
    ----------
    hosts
        Server name -> the place where its sessions run.
    api
        The way to have servers started and stopped.
    """

    def __init__(
        self, settings: Settings, database: Database, hosts: Mapping[str, Host], hub_id: str, api: HubAPI
    ) -> None:
        self.settings = settings
        self.database = database
        self.hub_id = hub_id
        self.task: asyncio.Task[None] | None = None
        self.leases = Leases(database)
        self.homes = Homes(settings.homes) if settings.homes.directory else None
        self.accounts = Accounts(database)
        self.out_of_service = OutOfService(database)
        self.out_of_service.load()
        self.fleet = fleet.from_settings(settings, self._closed)
        for mark in self.out_of_service.read_ended_gpus():
            self.fleet.clear(mark.target, mark.since)
        self.keeper = Keeper(self.leases, hosts, hub_id)
        self.members = Members(settings, database, self.keeper, self.fleet)
        self.members.load()
        self.images = Images(settings, database)
        self.line = Line(database)
        self.events = Events(database)
        self.line_keeper = LineKeeper(
            self.line, self.keeper, self.events, api, self._choose, settings.sessions.open_within_minutes * 60
        )
        self.keeper.on_freed = self.line_keeper.wake
        self.keeper.on_out_of_memory = self._note_out_of_memory
        self.executor = Executor(
            Commands(database),
            self.line,
            self.out_of_service,
            self.keeper,
            self.events,
            api,
            self.line_keeper.wake,
            self.fleet,
            settings.quiet,
        )
        self.lost = Lost(settings, database, self.keeper, self.out_of_service, self.events, api)
        self.lost.execute_for(self.executor)
        self.lost.on_returned = self.line_keeper.wake
        self.metrics = HubMetrics(
            self.leases,
            self.line,
            self.keeper,
            self.fleet,
            self._closed,
            lambda: self.images.lacking,
            settings.homes.directory,
            lambda: self.task is not None and not self.task.done(),
            settings.gpus.reading_max_age_seconds,
        )
        self._policy = policy_from(settings)
        self._sessions = Sessions(
            database,
            self.fleet,
            IdleTracker(),
            self.line,
            self.events,
            api,
            self._policy,
            silent=lambda server: self.lost.silent_since(server) is not None,
        )
        self._sessions.execute_for(self.executor)
        self.executor.add("reload", Reload(settings, self.members, self.executor, self.events).execute)
        self._out_of_memory_noted: dict[str, float] = {}
        # Read once, before any spawner loads its state: load_state cannot wait.
        self._at_start = {lease.id: lease for lease in self.leases.read_live()}

    async def run(self, hub_has_loaded: asyncio.Future[object] | None = None) -> None:
        """Read GPUs and look after leases until cancelled.

        Parameters
        ----------
        hub_has_loaded
            Done when JupyterHub has loaded its servers.
        """
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self.fleet.run())
                parts.create_task(self.keeper.run())
                parts.create_task(self.metrics.run())
                if hub_has_loaded is not None:
                    await asyncio.shield(hub_has_loaded)
                self.keeper.hub_is_up()
                # Only now does JupyterHub answer, which these ask to start and stop servers.
                parts.create_task(self.line_keeper.run())
                parts.create_task(self.executor.run())
                parts.create_task(self._sessions.run())
                parts.create_task(self.lost.run())
                parts.create_task(self._show_what_admins_must_see())
                parts.create_task(self.members.run())
                parts.create_task(self.images.run(self._answering_engines))
        finally:
            for host in self.keeper.hosts.values():
                host.close()

    def _answering_engines(self) -> list[Engine]:
        hosts = self.keeper.hosts
        return [host for name in self.keeper.answering if isinstance(host := hosts.get(name), Engine)]

    async def ready(self, timeout_seconds: float) -> bool:
        """Wait until at least one host was listed and GPUs were read once; False when none did in time."""
        names = list(self.keeper.hosts)
        listed = [asyncio.create_task(self.keeper.listed(name, timeout_seconds)) for name in names]
        try:
            await asyncio.wait(listed, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in listed:
                task.cancel()
        if not self.fleet.servers():
            # Without readings no GPU is given out, but a session without GPU starts.
            await self.fleet.wait_first(_FIRST_READING_SECONDS)
        return await self.keeper.some_answer(min(timeout_seconds, _ANSWER_SECONDS))

    async def holders(self) -> dict[str, str]:
        """Return GPU UUID -> who holds it: leases, and containers that no lease explains."""
        leased = {gpu.uuid: lease.holder for lease in await self.leases.live() for gpu in lease.gpus}
        return self.keeper.strangers | leased

    async def _note_out_of_memory(self, server: str, lease_id: str) -> None:
        """Write down that a session ran out of memory, once a minute at most: a program may try again and again."""
        if time.monotonic() < self._out_of_memory_noted.get(lease_id, 0) + _OUT_OF_MEMORY_EVERY_SECONDS:
            return
        self._out_of_memory_noted[lease_id] = time.monotonic()
        live = {lease.id: lease for lease in await self.leases.live()}
        self._out_of_memory_noted = {id_: at for id_, at in self._out_of_memory_noted.items() if id_ in live}
        if lease_id in live:
            memory = f"{self.settings.spawner.memory_limit / 2**30:.3g} GB"
            text = f"a program of the session was killed: it used all of {memory} of memory"
            await self.events.note("error", text, user=live[lease_id].user, server=server, lease_id=lease_id)

    def _closed(self) -> Closed:
        return self.members.closed(self.out_of_service.closed())

    def _choose(self, holders: Mapping[str, str], gpu_count: int, wish: Wish = NO_WISH) -> Choice | NoGPU:
        open_servers = self.keeper.answering - self.lost.closed_servers
        holders = {**self.keeper.strangers, **holders}
        # A server without the image takes minutes to fetch it, or cannot: only when there is no other.
        if self.images.lacking:
            found = self.fleet.choose(holders, gpu_count, open_servers - self.images.lacking, wish)
            if isinstance(found, Choice):
                return found
        return self.fleet.choose(holders, gpu_count, open_servers, wish)

    async def _show_what_admins_must_see(self) -> None:
        """Write down which GPUs are sick and which hold orphans, for the pages and for the next start."""
        while True:
            try:
                for uuid, why in self.fleet.needs_admin():
                    if await self.out_of_service.begin("gpu", uuid, why, "hub"):
                        log.warning("GPU %s is out of service until an admin includes it again: %s", uuid, why)
                        await self.events.note("error", f"a GPU is out of service: {why}", gpu_uuid=uuid)
                await self._show_orphans()
            except SQLAlchemyError:
                log.exception("What admins must see could not be written down; trying again")
            await asyncio.sleep(_SHOW_EVERY_SECONDS)

    async def _show_orphans(self) -> None:
        orphans = [orphan for orphan in self.keeper.orphans if not orphan.ours_ended]
        known = {gpu.uuid for server in self.fleet.servers() for gpu in server.gpus}
        held = {uuid: orphan for orphan in orphans for uuid in orphan.unit.gpu_uuids if uuid in known}
        for uuid, orphan in held.items():
            reason = f"used by {orphan.who}, container {orphan.unit.id[:12]}"
            await self.out_of_service.begin(ORPHAN, uuid, reason, "hub")
        for mark in self.out_of_service.marks:
            if mark.kind == ORPHAN and mark.target not in held:
                await self.out_of_service.finish(ORPHAN, mark.target, "hub")

    async def reserve(
        self, user: str, server_name: str, gpu_count: int, options: Mapping[str, Any]
    ) -> Lease | Ticket | NoGPU:
        """Reserve a place, or take one in the line; when the caller is cancelled, what was reserved is given back.

        A lease is in the caller's hand until `Keeper.claim` or `Keeper.give_back_soon`.
        """
        choose = partial(self._choose, wish=await self._wish_of(user, options))
        lease_id = new_lease_id()
        self.keeper.take_in_hand(lease_id)
        acquiring = asyncio.create_task(self.line.acquire(lease_id, user, server_name, gpu_count, options, choose))
        try:
            found = await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            acquiring.add_done_callback(lambda task: self._undo(lease_id, task))
            raise
        except BaseException:
            self.keeper.let_go(lease_id)
            raise
        if not isinstance(found, Lease) or found.id != lease_id:
            self.keeper.let_go(lease_id)
        if isinstance(found, Lease):
            self.line_keeper.note_taken(found.id)
        return found

    async def why_none(self, gpu_count: int) -> str:
        """Say in a sentence why there is no GPU now."""
        standings = self.fleet.standings(await self.holders())
        if standings and all(standing.state is State.TAKEN for standing in standings):
            return "All GPUs are taken."
        found = self._choose(await self.holders(), gpu_count)
        return f"No GPU is free ({found.reason})." if isinstance(found, NoGPU) else "Others are before you."

    async def _wish_of(self, user: str, options: Mapping[str, Any]) -> Wish:
        live = await self.leases.live()
        without_gpu = Counter(lease.server for lease in live if not lease.gpus)
        wish = Wish(last_server=await self.leases.last_server(user) or "", sessions=without_gpu)
        server = options.get("server")
        if user == SMOKE_TEST and server:
            return replace(wish, servers=frozenset({str(server)}), drained_too=True)
        return wish

    def give_up_start(self, lease: Lease, error: BaseException) -> None:
        """Begin to clean up a start that failed; who cancelled it does not want it again from the line."""
        if isinstance(error, asyncio.CancelledError):
            why = "its start was cancelled or took too long"
            self.keeper.own(self.line.end_of_lease(lease.id, TicketState.FAILED, why))
        else:
            words = str(error) if isinstance(error, HostError) else getattr(error, "message", "")
            why = f"its start failed: {words or type(error).__name__}"
        self.keeper.own(self.events.note("error", why, user=lease.user, server=lease.server, lease_id=lease.id))
        self.keeper.give_back_soon(lease, why)

    def _undo(self, lease_id: str, acquiring: asyncio.Task[Lease | Ticket | NoGPU]) -> None:
        found = None if acquiring.cancelled() or acquiring.exception() else acquiring.result()
        if isinstance(found, Lease):
            self.keeper.give_back_soon(found, "its start was cancelled")
        if not isinstance(found, Lease) or found.id != lease_id:
            self.keeper.let_go(lease_id)

    def ends_at(self, lease: Lease) -> float | None:
        """Return when a session that is ready now must end at the latest."""
        return ends_at(lease, self._policy, time.time())

    def lease_at_start(self, lease_id: str) -> Lease | None:
        """Return a lease whose server ran when this hub started, and note that its server is known.

        One whose stop was cut off is none: the keeper ends it, and the hub should not show it meanwhile.
        """
        lease = self._at_start.get(lease_id)
        if lease is None or lease.phase is not Phase.RUNNING:
            return None
        self.keeper.claim(lease_id)
        return lease
