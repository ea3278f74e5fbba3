"""All checks at once, each with its own deadline; then what only shows when servers are compared."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from idl_hub.doctor import agents, engines, files, hub, tables
from idl_hub.doctor.look import DEPLOY
from idl_hub.doctor.result import Found, Result, State
from idl_hub.homes.patience import Silent
from idl_hub.spawners.hosts import this_machine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from idl_hub.doctor.look import Look
    from idl_hub.doctor.tables import Tables

DEADLINE_SECONDS = 10.0
"""Of one check. All run at the same time, so the whole takes little more."""

CHECKS = {
    "settings": "the settings can be read and used",
    "files": "certificates in files, and who may read secrets",
    "database": "both databases answer, and their tables are of this version",
    "hub": "the hub's API answers, and it looks after GPUs and leases",
    "proxy": "requests get through to the hub; the routes are there",
    "web": "the GPU pages answer",
    "address": "the address that people type: name, certificate, way to the hub",
    "engine": "each server's engine: certificate, settings, the students' network, clock, doors that must be shut",
    "agent": "each server's agent: certificate, readings, GPUs, disks, clock",
    "leases": "on each server, what the hub noted down fits the containers",
    "image": "the image that students start from is on each server",
    "registry": "the registry answers and has that image",
    "homes": "students' homes can be made and written, and have room",
    "snapshots": "homes were copied lately",
    "backup": "a backup was made lately",
    "service": "what is out of service, and why",
    "alike": "all servers have the same driver, engine and kind of GPU",
}
"""What is looked at, and what each check is about."""


@dataclass(frozen=True, slots=True)
class Job:
    """A check of one part."""

    check: str
    target: str
    run: Callable[[Found], Awaitable[None]]


async def examine(look: Look, only: frozenset[str] = frozenset()) -> list[Result]:
    """Look at everything, or at some checks alone; never longer than a few seconds beyond the deadline."""
    try:
        known = await look.blocking(lambda: tables.read_tables(look.settings))
    except (SQLAlchemyError, Silent):
        known = tables.Tables()  # the check database says why
    wanted = [job for job in _jobs(look, known) if not only or job.check in only or "alike" in only]
    drained = frozenset(mark.target for mark in known.marks if mark.kind == "server")
    results = [soften(result, drained) for result in await asyncio.gather(*map(run, wanted))]
    results += compare(results)
    return [result for result in results if not only or result.check in only]


async def run(job: Job, deadline_seconds: float = DEADLINE_SECONDS) -> Result:
    """Do one check; whatever happens in it becomes a problem."""
    found = Found()
    began = time.monotonic()
    try:
        async with asyncio.timeout(deadline_seconds):
            await job.run(found)
    except TimeoutError:
        found.fail(
            f"no answer within {deadline_seconds:.0f} s",
            _WHEN_SILENT.get(job.check, "look at what runs there: `systemctl --failed`, `docker ps`, `dmesg | tail`"),
            _PAGES.get(job.check, ""),
        )
    except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
        found.fail(f"the check itself failed: {type(error).__name__}: {error}", "tell who develops idl_hub")
    return Result(
        job.check,
        job.target,
        tuple(dict.fromkeys(found.facts)),
        tuple(found.problems),
        found.certificates,
        found.versions,
        time.monotonic() - began,
    )


_WHEN_SILENT = {
    "engine": "on that server: `systemctl restart docker`, which sessions survive; when the server itself is silent, "
    "look at its network and power",
    "agent": "on that server: `docker restart idl-hub-agent`; when the server itself is silent, look at its network",
}
_PAGES = {"engine": "engine-does-not-answer.md", "agent": "agent-silent.md"}


def _jobs(look: Look, known: Tables) -> Iterator[Job]:
    yield from _jobs_of_the_hub(look, known)
    servers = look.settings.servers or (this_machine(look.settings),)
    is_docker = look.settings.spawner.kind == "docker"
    reference = _reference(look, known)
    for server in servers:
        if is_docker:
            yield Job("engine", server.name, partial(engines.look_at_engine, look, server))
        if is_docker and known.readable:
            yield Job("leases", server.name, partial(tables.look_at_leases, look, server, known.hub_id))
            yield Job("image", server.name, partial(engines.look_at_image, server, reference))
        if look.settings.servers:
            seen = tables.seen_on(known, server.name)
            yield Job("agent", server.name, partial(agents.look_at_agent, look, server, seen))


def _jobs_of_the_hub(look: Look, known: Tables) -> Iterator[Job]:
    yield Job("settings", "hub", _settings(look))
    yield Job("files", "hub", _blocking(look, partial(files.look_at_files, look.settings)))
    for name in ("idl_hub", "jupyterhub"):
        yield Job("database", name, partial(tables.look_at_database, look, name))
    yield Job("hub", "hub", partial(hub.look_at_hub, look, known.members))
    yield Job("proxy", "hub", partial(hub.look_at_proxy, look))
    yield Job("web", "hub", partial(hub.look_at_web, look))
    if look.address:
        yield Job("address", look.address, partial(hub.look_at_address, look))
    if look.settings.images.registry:
        yield Job("registry", look.settings.images.registry, partial(files.look_at_registry, look, known.image))
    if look.settings.homes.directory:
        yield Job("homes", str(look.settings.homes.directory), partial(files.look_at_homes, look))
    if look.settings.homes.snapshots:
        yield Job("snapshots", str(look.settings.homes.snapshots), partial(files.look_at_snapshots, look))
    if look.textfiles:
        backups = partial(files.look_at_backups, look.textfiles, time.time())
        yield Job("backup", "hub", _blocking(look, backups))
    if known.readable:
        yield Job("service", "fleet", _at_once(partial(tables.look_at_service, known, time.time())))


def _reference(look: Look, known: Tables) -> str:
    registry = look.settings.images.registry
    return known.image.reference(registry) if registry and known.image else look.settings.spawner.image


def _settings(look: Look) -> Callable[[Found], Awaitable[None]]:
    async def tell(found: Found) -> None:
        count = len(look.settings.servers)
        found.facts.append("they can be used" + (f", and name {count} servers" if count > 1 else ""))

    return tell


def _blocking(look: Look, check: Callable[[Found], None]) -> Callable[[Found], Awaitable[None]]:
    async def tell(found: Found) -> None:
        try:
            await look.blocking(lambda: check(found))
        except Silent:
            raise TimeoutError from None

    return tell


def _at_once(check: Callable[[Found], None]) -> Callable[[Found], Awaitable[None]]:
    async def tell(found: Found) -> None:
        check(found)

    return tell


def soften(result: Result, drained: frozenset[str]) -> Result:
    """Turn failures of a server that gets no sessions into warnings: who drained it knows, and nobody is harmed."""
    if result.target not in drained:
        return result
    problems = (
        replace(problem, state=State.WARNING, text=f"{problem.text} (the server is drained)")
        for problem in result.problems
    )
    return replace(result, problems=tuple(problems))


def compare(results: Sequence[Result]) -> list[Result]:
    """Say where servers differ that should be alike; nothing where there is one at most.

    Students are sent anywhere, and what works on one server must work on the next.
    """
    kinds = dict.fromkeys(kind for result in results for kind in result.versions)
    compared = []
    for kind in kinds:
        of = {result.target: result.versions[kind] for result in results if kind in result.versions}
        if len(of) < 2:
            continue
        found = Found()
        [(usual, count), *_] = Counter(of.values()).most_common()
        if count == len(of):
            found.facts.append(f"{usual or 'none'} on {len(of)} servers")
        else:
            others = ", ".join(f"{name} has {version or 'none'}" for name, version in of.items() if version != usual)
            found.warn(
                f"not all servers have the same {kind}: most have {usual or 'none'}, {others}",
                f"{DEPLOY}, or `ansible-playbook upgrade.yml`"
                if kind != "kind of GPU"
                else "students' work may not fit "
                "on every card; give each kind a server of its own, and tell the students",
            )
        compared.append(Result("alike", kind, tuple(found.facts), tuple(found.problems)))
    return compared
