"""Keeps leases and what runs in step: nothing runs without a lease, nothing holds a GPU without running.

The keeper owns every clean-up. A start that failed or was cancelled, a container that died, what a
killed hub left behind: each goes through `give_back`, which frees a lease only after its containers
were seen gone. A host that does not answer proves nothing, so its leases stay.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idl_hub.gpus.leases import Lease, Leases, Phase
from idl_hub.spawners.host import Host, HostError, Unit
from idl_hub.spawners.last_session import ENDED_BY_ITSELF
from idl_hub.spawners.looks import Looked, Silence
from idl_hub.spawners.verdicts import verdicts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
    from typing import Any

log = logging.getLogger("idl_hub.keeper")
_LISTEN_AGAIN_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something with our label that runs without a live lease of this hub."""

    server: str
    unit: Unit
    who: str
    """Whose it is as far as that can be told, in words."""
    ours_ended: bool = False
    """Left over from an ended lease of this hub; the keeper is removing it."""


async def _say_nothing(_server: str, _lease_id: str) -> None:
    pass


class Keeper:
    """One per hub, alive as long as its loop.

    Parameters
    ----------
    interval_seconds
        Time between two looks at every host.
    """

    def __init__(self, leases: Leases, hosts: Mapping[str, Host], hub_id: str, interval_seconds: float = 15) -> None:
        self.leases = leases
        self.hosts = dict(hosts)
        self.hub_id = hub_id
        self._interval_seconds = interval_seconds
        self._looked: dict[str, Looked] = {name: Looked() for name in hosts}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._retired: set[str] = set()
        self._heard = asyncio.Event()
        self._ended: asyncio.Future[None] | None = None
        self._orphans: dict[str, tuple[Orphan, ...]] = dict.fromkeys(hosts, ())
        self._in_hand: set[str] = set()
        self._looks: dict[object, set[str]] = {}
        self._claimed: set[str] = set()
        self._hub_is_up = asyncio.Event()
        self._cleaning: dict[str, asyncio.Task[None]] = {}
        self._removing: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.on_freed: Callable[[], None] = lambda: None
        """Called after a lease has ended."""
        self.on_out_of_memory: Callable[[str, str], Awaitable[None]] = _say_nothing
        """Called with host and lease when a program of a session was killed for memory."""

    async def run(self) -> None:
        """Look after all hosts until cancelled."""
        self._ended = asyncio.get_running_loop().create_future()
        try:
            for name in self.hosts:
                self._watches[name] = asyncio.create_task(self._watch(name))
            await self._ended
        finally:
            self._ended = None
            for task in [*self._watches.values(), *self._tasks]:
                task.cancel()

    def join(self, host: Host) -> None:
        """Look after one more host; it gets sessions once its containers were listed.

        Raises
        ------
        ValueError
            When a host of this name is there.
        """
        if host.name in self.hosts:
            raise ValueError(f"{host.name} is there already")
        self.hosts[host.name] = host
        self._looked[host.name] = Looked()
        self._orphans[host.name] = ()
        if self._ended is not None:
            self._watches[host.name] = asyncio.create_task(self._watch(host.name))

    def retire(self, name: str) -> None:
        """Give a host no more sessions; those it has go on and are looked after."""
        self._retired.add(name)

    def leave(self, name: str) -> None:
        """Let go of a host at once; leases there stay as they are and find it again when it joins again."""
        if name in self._watches:
            self._watches.pop(name).cancel()
        host = self.hosts.pop(name)
        del self._looked[name], self._orphans[name]
        self._retired.discard(name)
        host.close()

    async def _watch(self, name: str) -> None:
        """Look at a host time and again, and at once when it says that something ended."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._look_again_and_again(name))
            parts.create_task(self._listen(name))

    async def _look_again_and_again(self, name: str) -> None:
        looked = self._looked[name]
        while True:
            looked.due.clear()
            try:
                await self.look(name)
            except HostError as error:
                looked.failed(name, error)
            except Exception:  # the watch must outlive any fault, and say it
                log.exception("Looking after %s failed; trying again", name)
            with suppress(TimeoutError):
                async with asyncio.timeout(looked.seconds_to_next(self._interval_seconds)):
                    await looked.due.wait()

    async def _listen(self, name: str) -> None:
        """Look at once when the host says that something of ours ended, or when it is heard again."""
        while True:
            try:
                async for change in self.hosts[name].changes():
                    if change.kind == "oom":
                        await self.on_out_of_memory(name, change.lease_id)
                    elif change.kind != "start":
                        self._looked[name].something_ended()
            except HostError as error:
                log.info("%s: %s Trying again", name, error)
                if not self._looked[name].fault:
                    self._looked[name].due.set()  # it may be the first sign of a silence
            except Exception:  # the watch must outlive any fault, and say it
                log.exception("Listening to %s failed; trying again", name)
            await asyncio.sleep(_LISTEN_AGAIN_SECONDS)

    async def look(self, name: str) -> None:
        """Compare one host's leases with what runs there, once, and begin the clean-ups that follow."""
        with self._noting_hands() as touched:
            live = await self.leases.live()
            units = await self.hosts[name].units()
        await self._adopt(name, live, units)
        leases = [lease for lease in live if lease.server == name]
        claimed = frozenset(self._claimed) if self._hub_is_up.is_set() else None
        # What was in hand at any moment of this look may have changed under it.
        for verdict in verdicts(leases, units, frozenset(touched), claimed):
            log.info("Lease %s ends: %s", verdict.lease_id, verdict.why)
            self.give_back_soon(next(lease for lease in leases if lease.id == verdict.lease_id), verdict.why)
        # A live lease of any host counts: its server may have been renamed in the settings.
        unexplained = [unit for unit in units if unit.lease_id not in touched | {lease.id for lease in live}]
        await self._judge_strangers(name, unexplained)
        if name in self._looked:  # it may have left meanwhile
            self._looked[name].succeeded(name)
            self._heard.set()

    async def _adopt(self, name: str, live: Iterable[Lease], units: Iterable[Unit]) -> None:
        """Move leases here whose server is not in the settings but whose container runs here: it was renamed."""
        here = {unit.lease_id for unit in units if unit.hub_id == self.hub_id}
        for lease in live:
            if lease.server not in self.hosts and lease.id in here:
                log.warning("Lease %s moves from %s to %s, where its container is", lease.id, lease.server, name)
                await self.leases.move(lease.id, name)

    async def _judge_strangers(self, name: str, unexplained: list[Unit]) -> None:
        """Remember the GPUs of running containers that no live lease explains; remove what an ended lease left."""
        orphans = []
        for unit in unexplained:
            ours = unit.hub_id == self.hub_id
            who = "an unknown session of this hub" if ours else "a session of another hub"
            ours_ended = ours and await self.leases.known(unit.lease_id)
            if ours_ended:
                who = "an ended session that is being removed"
                self._remove_soon(name, unit)
            if unit.running:
                orphans.append(Orphan(name, unit, who, ours_ended))
        if name not in self.hosts:
            return
        if tuple(orphans) != self._orphans[name]:
            said = ", ".join(f"{orphan.unit.id[:12]} ({orphan.who})" for orphan in orphans)
            log.warning("%s: containers that no lease explains: %s", name, said or "none any more")
        self._orphans[name] = tuple(orphans)

    def _remove_soon(self, name: str, unit: Unit) -> None:
        """Begin to remove what an ended lease left; its GPUs stay held until a later look finds it gone."""
        if unit.id in self._removing:
            return
        log.info("Removing %s, left over from lease %s", unit.id[:12], unit.lease_id)
        self._removing.add(unit.id)
        self.own(self._remove(name, unit))

    async def _remove(self, name: str, unit: Unit) -> None:
        try:
            await self.hosts[name].remove(unit.id, unit.lease_id)
        except HostError as error:
            log.warning("%s is not removed; the next look at %s tries again: %s", unit.id[:12], name, error)
        finally:
            self._removing.discard(unit.id)

    @property
    def strangers(self) -> dict[str, str]:
        """GPU UUID -> who uses it without a lease of ours, over all hosts."""
        return {uuid: orphan.who for orphan in self.orphans for uuid in orphan.unit.gpu_uuids}

    @property
    def orphans(self) -> tuple[Orphan, ...]:
        """What ran at the last look without a live lease of ours, over all hosts."""
        return tuple(orphan for found in self._orphans.values() for orphan in found)

    async def end_orphan(self, orphan: Orphan) -> None:
        """End what no lease explains, because an admin said so; raises `HostError` when that does not work."""
        await self.hosts[orphan.server].remove(orphan.unit.id, orphan.unit.lease_id)
        await self.look(orphan.server)
        self.on_freed()

    async def listed(self, name: str, timeout_seconds: float) -> bool:
        """Wait until the host's containers were listed once since the hub started; False when that took too long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._looked[name].since_start.wait()
        except TimeoutError:
            return False
        return True

    @property
    def answering(self) -> frozenset[str]:
        """Hosts that answer, and whose containers have been listed since the hub started; only these get sessions."""
        return frozenset(
            name
            for name, looked in self._looked.items()
            if looked.since_start.is_set() and not looked.fault and name not in self._retired
        )

    async def some_answer(self, timeout_seconds: float) -> bool:
        """Ask hosts that were silent again, and wait until one answers; False when none did in time."""
        deadline = time.monotonic() + timeout_seconds
        while not self.answering and time.monotonic() < deadline:
            self._heard.clear()
            for looked in self._looked.values():
                looked.due.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(1, deadline - time.monotonic())):
                    await self._heard.wait()
        return bool(self.answering)

    def silence(self, name: str) -> Silence | None:
        """Return since when and why a host does not answer; None when it does, or is not known."""
        looked = self._looked.get(name)
        return Silence(looked.silent_since, looked.fault) if looked and looked.fault else None

    def was_silent(self, name: str, since: float) -> None:
        """Note that a host did not answer an earlier hub: when it does not answer this one, its silence goes on."""
        if name in self._looked:
            self._looked[name].silent_since = since

    def has_answered(self, name: str) -> bool:
        """Whether the last look at a host succeeded, which it did at least once since the hub started."""
        looked = self._looked.get(name)
        return looked is not None and looked.since_start.is_set() and not looked.fault

    async def answers(self, name: str) -> bool:
        """Ask a host whether it answers now; one that does not gets no session until it was looked at again."""
        try:
            await self.hosts[name].ping()
        except HostError as error:
            if name in self._looked:
                self._looked[name].failed(name, error)
                self._looked[name].due.set()
            return False
        except KeyError:
            return False
        return True

    def take_in_hand(self, lease_id: str) -> None:
        """Leave this lease to the caller until `claim`, `let_go` or `give_back_soon`; call before it is committed."""
        self._in_hand.add(lease_id)
        for touched in self._looks.values():
            touched.add(lease_id)

    def let_go(self, lease_id: str) -> None:
        """Note that the caller is done with a lease that came to nothing."""
        self._in_hand.discard(lease_id)

    @contextmanager
    def _noting_hands(self) -> Iterator[set[str]]:
        """Yield a set that gathers every lease that is in hand at any moment until the end of the block."""
        look = object()  # two looks may have touched the same, so their sets do not tell them apart
        touched = self._looks[look] = set(self._in_hand)
        try:
            yield touched
        finally:
            del self._looks[look]

    def claim(self, lease_id: str) -> None:
        """Note that JupyterHub knows this lease as a running server; from now on the keeper watches it."""
        self._claimed.add(lease_id)
        self._in_hand.discard(lease_id)

    def hub_is_up(self) -> None:
        """Note that JupyterHub has loaded its servers: a running lease it did not claim is a cut-off start."""
        self._hub_is_up.set()
        for looked in self._looked.values():
            looked.due.set()

    def give_back_soon(self, lease: Lease, why: str) -> asyncio.Task[None]:
        """Begin to end a lease; the returned task may be awaited or left alone. Asking twice is one task."""
        if lease.id not in self._cleaning:
            task = self.own(self._give_back(lease, why))
            self._cleaning[lease.id] = task
            task.add_done_callback(lambda _: self._cleaning.pop(lease.id, None))
        return self._cleaning[lease.id]

    async def end_unused(self, lease: Lease, why: str) -> None:
        """End a lease for which nothing was made on its host."""
        await self.leases.end(lease.id, why)
        self.let_go(lease.id)
        self.on_freed()

    async def cleaned(self, user: str, server_name: str, timeout_seconds: float) -> bool:
        """Wait until earlier sessions of this user's server are cleaned up; False when that took too long."""
        own = {lease.id for lease in await self.leases.live() if (lease.user, lease.server_name) == (user, server_name)}
        tasks = [task for lease_id, task in self._cleaning.items() if lease_id in own]
        if not tasks:
            return True
        _, unfinished = await asyncio.wait(tasks, timeout=timeout_seconds)
        return not unfinished

    async def _give_back(self, lease: Lease, why: str) -> None:
        self.take_in_hand(lease.id)
        host = self.hosts.get(lease.server)
        try:
            if host is None:
                log.warning("Lease %s is on %s, which is not in the settings any more", lease.id, lease.server)
                await self.leases.advance(lease.id, Phase.LOST)
                return
            if self.silence(lease.server) is not None:  # who stops a server should not wait for that once more
                log.warning("Lease %s keeps its GPUs: %s does not answer", lease.id, lease.server)
                await self.leases.advance(lease.id, Phase.LOST)
                return
            await self.leases.advance(lease.id, Phase.STOPPING)
            await host.settle(lease.id)
            for unit in await host.units():
                if unit.lease_id == lease.id and unit.hub_id == self.hub_id:
                    if why == ENDED_BY_ITSELF:
                        why = unit.ending or why  # who asks whether a server runs may come before the host's own news
                    await host.remove(unit.id, lease.id)
            await self.leases.end(lease.id, why)
            self.on_freed()
        except HostError as error:
            log.warning("Lease %s keeps its GPUs: %s cannot say that it ended: %s", lease.id, lease.server, error)
            await self.leases.advance(lease.id, Phase.LOST)
        finally:
            self._in_hand.discard(lease.id)
            self._claimed.discard(lease.id)

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a piece of cleaning up in a task that outlives its caller; a fault is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            log.error("A clean-up failed; the next look at its host tries again", exc_info=task.exception())
