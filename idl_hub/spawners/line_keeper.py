"""Serves the line: gives a free GPU to who is first, starts their server, and passes on what nobody opens."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from idl_hub.gpus.leases import Lease, new_lease_id
from idl_hub.gpus.line import Line, Ticket, TicketState
from idl_hub.spawners.hub_api import HubAPI, HubAPIError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from idl_hub.db.events import Events
    from idl_hub.gpus.placement import Choice, NoGPU
    from idl_hub.spawners.keeper import Keeper

log = logging.getLogger("idl_hub.line")

_MOST_ATTEMPTS = 3
_ASK_FOR_SECONDS = 600
"""How long a busy hub is asked again before an offer is given up."""
_LOOK_EVERY_SECONDS = 2.0
_TAKEN_WITHIN_SECONDS = 120
_USE_EVERY_SECONDS = 5.0


class LineKeeper:
    """One per hub, run inside its loop. It wakes when something may have changed, and every two seconds.

    Parameters
    ----------
    choose
        From GPU UUID -> holder and a number of GPUs to a choice, with the fleet as it is now.
    open_within_seconds
        A server that the line started is stopped when nobody opened it for so long after it was ready.
    """

    def __init__(
        self,
        line: Line,
        keeper: Keeper,
        events: Events,
        api: HubAPI,
        choose: Callable[[Mapping[str, str], int], Choice | NoGPU],
        open_within_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._line = line
        self._keeper = keeper
        self._events = events
        self._api = api
        self._choose = choose
        self._open_within_seconds = open_within_seconds
        self._clock = clock
        self._changed = asyncio.Event()
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._taken: dict[str, asyncio.Event] = {}
        self._first_use: dict[str, str] = {}
        self._use_at = 0.0

    def wake(self) -> None:
        """Look at once: a lease ended, a ticket was taken, a GPU came back."""
        self._changed.set()

    async def run(self) -> None:
        """Serve the line until cancelled."""
        try:
            while True:
                try:
                    await self.serve()
                except Exception:  # the line must outlive any fault, and say it
                    log.exception("Serving the line failed; trying again")
                self._changed.clear()
                try:
                    async with asyncio.timeout(_LOOK_EVERY_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._starting.values():
                task.cancel()

    async def serve(self) -> None:
        """Look at every ticket once."""
        tickets = await self._line.live()
        if not tickets:
            return
        live = {lease.id for lease in await self._keeper.leases.live()}
        for ticket in tickets:
            if ticket.state is TicketState.OFFERED and ticket.lease_id not in live and ticket.id not in self._starting:
                await self._offer_failed(ticket)
        await self._pass_on_unopened([ticket for ticket in tickets if ticket.state is TicketState.READY], live)
        while await self._offer_next():
            pass

    async def _offer_next(self) -> bool:
        """Give a GPU to the first for whom there is one, and have the server started; False when there is none."""
        lease_id = new_lease_id()
        self._keeper.take_in_hand(lease_id)
        try:
            offered = await self._line.offer_next(lease_id, self._choose)
        except BaseException:
            self._keeper.let_go(lease_id)
            raise
        if offered is None:
            self._keeper.let_go(lease_id)
            return False
        ticket, lease = offered
        await self._tell(ticket, "a GPU is free; your server is being started", lease)
        self._taken[lease.id] = asyncio.Event()
        task = asyncio.create_task(self._start(ticket, lease))
        self._starting[ticket.id] = task
        task.add_done_callback(lambda _: self._started(ticket, lease))
        return True

    def _started(self, ticket: Ticket, lease: Lease) -> None:
        self._starting.pop(ticket.id, None)
        self._taken.pop(lease.id, None)
        self.wake()

    async def _start(self, ticket: Ticket, lease: Lease) -> None:
        """Start the server of an offered ticket; the reservation is kept while the hub is busy."""
        deadline = time.monotonic() + _ASK_FOR_SECONDS
        while True:
            try:
                await self._api.start(ticket.user, ticket.server_name, ticket.options)
            except HubAPIError as error:
                if error.busy and time.monotonic() < deadline:
                    log.info("The server of %s is asked for again: %s", ticket.user, error)
                    await asyncio.sleep(_LOOK_EVERY_SECONDS)
                    continue
                log.warning("The server of %s was not started: %s", ticket.user, error)
                self._keeper.give_back_soon(lease, "its server could not be started")
                return
            break
        try:
            async with asyncio.timeout(_TAKEN_WITHIN_SECONDS):
                await self._taken[lease.id].wait()
        except TimeoutError:
            log.warning("The start of %s never took its reservation", ticket.user)
            self._keeper.give_back_soon(lease, "its start never came so far")

    def note_taken(self, lease_id: str) -> None:
        """Note that a start has the lease in its hand now."""
        if lease_id in self._taken:
            self._taken[lease_id].set()

    async def _offer_failed(self, ticket: Ticket) -> None:
        state = await self._line.wait_again(ticket.id, _MOST_ATTEMPTS)
        if state is TicketState.FAILED:
            await self._tell(ticket, f"the line gave up: the server did not start {_MOST_ATTEMPTS} times. Try again.")
        else:
            await self._tell(ticket, "nothing came of the offer; the place in the line is kept")

    async def _pass_on_unopened(self, ready: Iterable[Ticket], live: set[str]) -> None:
        """End tickets whose server was opened or is gone; stop servers that nobody opened in time."""
        ready = list(ready)
        if ready and time.monotonic() >= self._use_at:
            self._use_at = time.monotonic() + _USE_EVERY_SECONDS
            last_use = await self._api.last_use()
            for ticket in ready:
                await self._look_whether_opened(ticket, last_use.get((ticket.user, ticket.server_name)))
        for ticket in ready:
            if ticket.lease_id not in live:
                await self._line.end(ticket.id, TicketState.OPENED, "the server was stopped")
            elif ticket.ready_at is not None and self._clock() > ticket.ready_at + self._open_within_seconds:
                await self._expire(ticket)

    async def _look_whether_opened(self, ticket: Ticket, used: str | None) -> None:
        if used is None:
            return
        # The proxy notes the moment the route was made as its first use; any later one is a browser's.
        if used != self._first_use.setdefault(ticket.id, used):
            await self._line.end(ticket.id, TicketState.OPENED, "opened")
            self._first_use.pop(ticket.id, None)

    async def _expire(self, ticket: Ticket) -> None:
        if await self._line.end(ticket.id, TicketState.EXPIRED, "not opened in time") is None:
            return
        self._first_use.pop(ticket.id, None)
        minutes = self._open_within_seconds / 60
        await self._tell(ticket, f"the server was not opened within {minutes:g} minutes; its GPU goes to the next")
        try:
            await self._api.stop(ticket.user, ticket.server_name)
        except HubAPIError as error:
            log.warning("The unopened server of %s is not stopped: %s", ticket.user, error)

    async def _tell(self, ticket: Ticket, text: str, lease: Lease | None = None) -> None:
        log.info("Line: %s: %s", ticket.user, text)
        await self._events.note(
            "ticket",
            text,
            user=ticket.user,
            server=lease.server if lease else None,
            lease_id=lease.id if lease else ticket.lease_id,
        )
