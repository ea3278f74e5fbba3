"""Executes what other processes ask of the hub. Who may ask what is checked there; that it makes sense, here."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from idl_hub.db.commands import DONE, REFUSED, Answer, Command, Commands
from idl_hub.gpus.leases import Phase
from idl_hub.gpus.line import Line, TicketState
from idl_hub.quiet import quiet_words
from idl_hub.spawners.host import HostError
from idl_hub.spawners.hub_api import HubAPI, HubAPIError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from idl_hub.db.events import Events
    from idl_hub.gpus.fleet import Fleet
    from idl_hub.gpus.leases import Lease
    from idl_hub.gpus.service import OutOfService
    from idl_hub.settings_servers import QuietSettings
    from idl_hub.spawners.keeper import Keeper

log = logging.getLogger("idl_hub.executor")
_LOOK_EVERY_SECONDS = 0.5
ENDING_SECONDS = 45
"""Time for JupyterLab, which asks every 15 s, to tell the holder and save what is open."""


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """The request makes no sense now; the message is for who asked."""


async def _as_usual(_lease: Lease, _by: str) -> None:
    return None


class Executor:
    """One per hub, run inside its loop.

    Parameters
    ----------
    wake_line
        Called when a GPU may have become available or the line has changed.
    fleet
        Knows which servers and GPUs there are, and forgets a GPU's faults when an admin says so.
    quiet
        When nothing is taken out of service unless it is forced.
    """

    def __init__(
        self,
        commands: Commands,
        line: Line,
        out_of_service: OutOfService,
        keeper: Keeper,
        events: Events,
        api: HubAPI,
        wake_line: Callable[[], None],
        fleet: Fleet,
        quiet: QuietSettings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.quiet = quiet
        self._now = now
        self._commands = commands
        self._line = line
        self._out_of_service = out_of_service
        self._keeper = keeper
        self._events = events
        self._api = api
        self._wake_line = wake_line
        self._fleet = fleet
        self._kinds: dict[str, Callable[[Command], Awaitable[str]]] = {
            "drain": self._drain,
            "undrain": self._undrain,
            "exclude": self._exclude,
            "include": self._include,
            "end_session": self._end_session,
            "end_orphan": self._end_orphan,
            "leave_line": self._leave_line,
            "to_front": self._to_front,
        }
        self.end_silent: Callable[[Lease, str], Awaitable[str | None]] = _as_usual
        """Ends a session whose server does not answer, for somebody; returns None when its server does."""

    def add(self, kind: str, execute: Callable[[Command], Awaitable[str]]) -> None:
        """Let another part of the hub execute a kind of request."""
        self._kinds[kind] = execute

    async def run(self) -> None:
        """Execute requests until cancelled."""
        while True:
            try:
                for command in await self._commands.waiting():
                    await self._commands.settle(command.id, await self.execute(command))
            except Exception:  # the executor must outlive any fault, and say it
                log.exception("Executing requests failed; trying again")
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def execute(self, command: Command) -> Answer:
        """Do what is asked; never raises."""
        execute = self._kinds.get(command.kind)
        if execute is None:
            return Answer(REFUSED, f"The hub does not know the request {command.kind!r}.")
        try:
            return Answer(DONE, await execute(command))
        except Refused as refusal:
            return Answer(REFUSED, str(refusal))
        except (HubAPIError, HostError) as error:
            return Answer(REFUSED, f"That did not work: {error}")
        except KeyError as error:
            return Answer(REFUSED, f"The request {command.kind!r} needs {error}.")
        except Exception:  # one bad request may not stop the others
            log.exception("The request %s of %s failed", command.kind, command.asked_by)
            return Answer(REFUSED, "That failed; the hub's log says why.")

    async def _drain(self, command: Command) -> str:
        server = self._server(command)
        reason = _text(command, "reason") or "maintenance"
        forced = self.forced(command)
        if not await self._out_of_service.begin("server", server, reason, command.asked_by):
            raise Refused(f"{server} is drained already.")
        await self._note(f"{server} is drained: {reason}{forced}", command, server=server)
        held = sum(lease.server == server for lease in await self._keeper.leases.live())
        return f"{server} gets no new sessions; {held} still run there."

    async def _undrain(self, command: Command) -> str:
        server = self._server(command)
        if not await self._out_of_service.finish("server", server, command.asked_by):
            raise Refused(f"{server} is not drained.")
        await self._note(f"{server} is in service again", command, server=server)
        self._wake_line()
        return f"{server} is in service again."

    async def _exclude(self, command: Command) -> str:
        gpu = self._gpu(command)
        reason = _text(command, "reason") or "excluded"
        forced = self.forced(command)
        if not await self._out_of_service.begin("gpu", gpu, reason, command.asked_by):
            raise Refused("This GPU is out of service already.")
        await self._note(f"a GPU is excluded: {reason}{forced}", command, gpu_uuid=gpu)
        return "The GPU gets no new sessions."

    async def _include(self, command: Command) -> str:
        gpu = self._gpu(command)
        # First, or what the fleet remembers would mark the GPU anew at once.
        self._fleet.clear(gpu)
        if not await self._out_of_service.finish("gpu", gpu, command.asked_by):
            raise Refused("This GPU is in service.")
        await self._note("a GPU is in service again", command, gpu_uuid=gpu)
        self._wake_line()
        return "The GPU is in service again."

    async def _end_session(self, command: Command) -> str:
        """Have the holder told and the documents saved before the end, where the server runs."""
        lease = await self._lease(command)
        message = f"{command.asked_by} ends your session: {_text(command, 'message') or 'no reason was given'}"
        await self._events.note("stop", message, user=lease.user, server=lease.server, lease_id=lease.id)
        if (said := await self.end_silent(lease, command.asked_by)) is not None:
            return said
        if lease.phase is not Phase.RUNNING:
            await self._api.stop(lease.user, lease.server_name)
            return f"The session of {lease.holder} is being ended."
        await self._keeper.leases.announce_end(lease.id, time.time() + ENDING_SECONDS, message)
        return f"The session of {lease.holder} ends in {ENDING_SECONDS} s; its documents are saved before."

    async def _end_orphan(self, command: Command) -> str:
        gpu = _text(command, "gpu_uuid")
        for orphan in self._keeper.orphans:
            if gpu in orphan.unit.gpu_uuids:
                await self._keeper.end_orphan(orphan)
                await self._note(f"ended {orphan.who} ({orphan.unit.id[:12]})", command, gpu_uuid=gpu)
                return f"Ended {orphan.who} on {orphan.server}."
        raise Refused("No container without a lease uses this GPU.")

    async def _leave_line(self, command: Command) -> str:
        ticket = await self._line.end(_text(command, "ticket_id"), TicketState.LEFT, f"left ({command.asked_by})")
        if ticket is None:
            raise Refused("This place in the line is gone already.")
        await self._events.note("ticket", "left the line", user=ticket.user)
        if ticket.lease_id:
            await self._api.stop(ticket.user, ticket.server_name)
        self._wake_line()
        return "You have left the line."

    async def _to_front(self, command: Command) -> str:
        ticket = await self._line.to_front(_text(command, "ticket_id"), command.asked_by)
        if ticket is None:
            raise Refused("This ticket does not wait any more.")
        await self._events.note("ticket", f"moved to the front of the line by {command.asked_by}", user=ticket.user)
        self._wake_line()
        return f"{ticket.user} is next in line."

    def forced(self, command: Command) -> str:
        """Return what to record of a request that is forced in the quiet hours; empty outside of them.

        Raises
        ------
        Refused
            In the quiet hours, when it is not forced.
        """
        why = quiet_words(self.quiet, self._now())
        if why and command.arguments.get("force") is not True:
            raise Refused(
                f"{why} Nothing was changed. Wait until then, or do it at the shell with --force, which is recorded."
            )
        return ", forced in the quiet hours" if why else ""

    def _server(self, command: Command) -> str:
        server = _text(command, "server")
        if server not in self._fleet.names:
            raise Refused(f"There is no server {server!r}; known: {', '.join(self._fleet.names)}.")
        return server

    def _gpu(self, command: Command) -> str:
        gpu = _text(command, "gpu_uuid")
        known = {one.uuid for server in self._fleet.servers() for one in server.gpus}
        if gpu not in known and all(mark.target != gpu for mark in self._out_of_service.marks):
            raise Refused(f"There is no GPU {gpu!r}.")
        return gpu

    async def _lease(self, command: Command) -> Lease:
        lease_id = _text(command, "lease_id")
        for lease in await self._keeper.leases.live():
            if lease.id == lease_id:
                return lease
        raise Refused("This session has ended already.")

    async def _note(self, text: str, command: Command, **about: Any) -> None:
        log.info("%s (%s)", text, command.asked_by)
        await self._events.note("admin", f"{text} ({command.asked_by})", **about)


def _text(command: Command, key: str) -> str:
    value = command.arguments.get(key, "")
    return str(value)[:500]
