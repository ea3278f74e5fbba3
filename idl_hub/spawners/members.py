"""Servers join and leave while the hub runs, and what is known of them is written down for everybody else."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from docker.errors import APIError

from idl_hub.gpus.leases import Phase
from idl_hub.gpus.members import SAY_AT_LEAST_EVERY_SECONDS, Member, closed_with, members_in, write_members
from idl_hub.spawners.engine import Engine
from idl_hub.spawners.host import HostError
from idl_hub.spawners.hosts import make_host, this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from idl_hub.db import Database
    from idl_hub.gpus.fleet import Fleet
    from idl_hub.gpus.leases import Lease
    from idl_hub.gpus.placement import Closed
    from idl_hub.settings import Settings, SpawnerSettings
    from idl_hub.settings_servers import ServerSettings
    from idl_hub.spawners.host import Host
    from idl_hub.spawners.keeper import Keeper

log = logging.getLogger("idl_hub.members")
_LOOK_EVERY_SECONDS = 1.0
_VERSION_SECONDS = 10.0
_ASK_VERSION_AGAIN_SECONDS = 600.0
_UNDER_WAY = (Phase.RESERVED, Phase.CREATING, Phase.STOPPING)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a new list of servers changes, by their names."""

    joined: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.joined or self.changed or self.leaving)


class Members:
    """One per hub. Knows which servers there are, lets them join and leave, and is run inside the hub's loop.

    A server that leaves gets no new sessions; its engine is looked after until its last session has ended, also
    by hubs that are started meanwhile. One whose engine or address changes is connected anew as soon as no
    session starts or stops there.

    Parameters
    ----------
    keeper
        Already has the hosts that the settings name.
    make
        Makes the host of one that joins.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        keeper: Keeper,
        fleet: Fleet,
        clock: Callable[[], float] = time.time,
        make: Callable[[ServerSettings, SpawnerSettings], Host] = make_host,
    ) -> None:
        self._make = make
        self._spawner = settings.spawner
        self._database = database
        self._keeper = keeper
        self._fleet = fleet
        self._clock = clock
        self._this_machine = () if settings.servers else (this_machine(settings).name,)
        self._current: dict[str, ServerSettings] = {server.name: server for server in settings.servers}
        self._leaving: dict[str, ServerSettings] = {}
        self._connected: dict[str, ServerSettings] = dict(self._current)
        """By what settings each host was made: behind `_current` while a change has to wait."""
        self._anew: set[str] = set()
        """Whose host is to be made anew as soon as no session starts or stops there."""
        self._versions: dict[str, tuple[str, float]] = {}
        self._said: tuple[Member, ...] = ()

    def load(self) -> None:
        """Look after servers again that left while an earlier hub ran and still have sessions; blocks."""
        live = {lease.server for lease in self._keeper.leases.read_live()}
        for member in self._database.transact(members_in):
            if member.settings is None or member.name in self._keeper.hosts or member.name not in live:
                continue
            try:
                host = self._make(member.settings, self._spawner)
            except ValueError as error:  # it was of another kind of spawner
                log.warning("Sessions on %s, which is not in the settings any more, stay lost: %s", member.name, error)
                continue
            log.info("%s is not in the settings any more; its sessions are looked after until they end", member.name)
            self._leaving[member.name] = self._connected[member.name] = member.settings
            self._keeper.join(host)
            self._keeper.retire(member.name)
        self._follow()

    def closed(self, closed: Closed) -> Closed:
        """Return what placement must leave out: what is closed, and servers that leave or do not answer."""
        return closed_with(closed, self._members())  # as of now: what is written down is up to a second old

    def apply(self, servers: Iterable[ServerSettings]) -> Changes:
        """Take these for the servers there are from now on. What cannot be done at once, `run` does when it can.

        Only for a hub whose settings name its servers, and only from its loop.
        """
        wanted = {server.name: server for server in servers}
        gone = [name for name in self._current if name not in wanted]
        joined = [name for name in wanted if name not in self._current]
        changed = [name for name, server in wanted.items() if self._current.get(name, server) != server]
        for name in gone:
            self._leaving[name] = self._current[name]
            self._anew.discard(name)
            self._keeper.retire(name)
        self._current = wanted
        for name, server in wanted.items():
            if name not in self._keeper.hosts:
                self._connect(server)
            elif name in self._leaving or _other_engine(self._connected[name], server):
                self._leaving.pop(name, None)
                self._anew.add(name)
                self._keeper.retire(name)
        self._follow()
        return Changes(tuple(joined), tuple(changed), tuple(gone))

    def _connect(self, server: ServerSettings) -> None:
        self._connected[server.name] = server
        self._keeper.join(self._make(server, self._spawner))

    def _follow(self) -> None:
        if not self._this_machine:
            self._fleet.follow([*self._current.values(), *self._leaving.values()])

    async def run(self) -> None:
        """Finish what had to wait, and write down what has changed, until cancelled."""
        while True:
            try:
                await self._finish()
                await self._ask_versions()
                await self._say()
            except Exception:  # servers must be looked after whatever goes wrong, and it must be said
                log.exception("Looking after the servers failed; trying again")
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def _finish(self) -> None:
        """Let servers go whose last session has ended, and connect changed ones anew."""
        if not (self._anew or self._leaving):
            return
        live = await self._keeper.leases.live()
        for name in [name for name in self._leaving if name not in _servers(live)]:
            log.info("%s has left", name)
            del self._leaving[name], self._connected[name]
            self._keeper.leave(name)
            self._follow()
        busy = _servers(lease for lease in live if lease.phase in _UNDER_WAY)
        for name in self._anew - busy:
            log.info("%s is connected anew", name)
            self._anew.discard(name)
            self._keeper.leave(name)
            self._connect(self._current[name])
            self._versions.pop(name, None)

    async def _ask_versions(self) -> None:
        """Learn what version the engines have that answer, now and then."""
        due = self._clock() - _ASK_VERSION_AGAIN_SECONDS
        asked = [
            host
            for name in self._keeper.answering
            if isinstance(host := self._keeper.hosts[name], Engine) and self._versions.get(name, ("", 0.0))[1] < due
        ]
        await asyncio.gather(*(self._ask_version(engine) for engine in asked))

    async def _ask_version(self, engine: Engine) -> None:
        version = self._versions.get(engine.name, ("", 0.0))[0]
        try:
            async with asyncio.timeout(_VERSION_SECONDS):
                told: dict[str, Any] = await engine.call("version")
            version = str(told.get("Version", ""))[:64]
        except (HostError, APIError, TimeoutError) as error:
            log.info("%s does not tell its engine's version: %s", engine.name, error)
        self._versions[engine.name] = (version, self._clock())

    async def _say(self) -> None:
        """Write the members down when something has changed, else now and then."""
        members = self._members()
        said_at = self._said[0].said_at if self._said else 0.0
        unchanged = members == tuple(replace(member, said_at=0.0) for member in self._said)
        now = self._clock()
        if unchanged and now - said_at < SAY_AT_LEAST_EVERY_SECONDS / 2:
            return
        self._said = tuple(replace(member, said_at=now) for member in members)
        await self._database.run(lambda session: write_members(session, self._said))

    def _members(self) -> tuple[Member, ...]:
        names = [*self._this_machine, *self._current, *self._leaving]
        return tuple(self._member(name) for name in names)

    def _member(self, name: str) -> Member:
        silence = self._keeper.silence(name)
        return Member(
            name,
            self._current.get(name) or self._leaving.get(name),
            leaving=name in self._leaving,
            engine_version=self._versions.get(name, ("", 0.0))[0] or None,
            silent_since=silence.since if silence else None,
            fault=silence.why if silence else None,
        )


def _other_engine(one: ServerSettings, other: ServerSettings) -> bool:
    return (one.engine, one.address) != (other.engine, other.address)


def _servers(leases: Iterable[Lease]) -> set[str]:
    return {lease.server for lease in leases}
