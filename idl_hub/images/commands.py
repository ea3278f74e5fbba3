"""``idl-hub images``: publish, rollout, back, list and prune.

They run on the hub's machine with the hub's rights: the table of images and the ways to the engines are theirs, and
the hub itself only reads what is offered. So a rollout is watched by who asked for it and ends with them.
"""

from __future__ import annotations

import asyncio
import getpass
import sys
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException
from requests.exceptions import RequestException
from sqlalchemy import select

from idl_hub.db import Database
from idl_hub.db.events import Events
from idl_hub.db.tables import OutOfServiceRow
from idl_hub.images import shelf
from idl_hub.images.board import Board
from idl_hub.images.offers import Offers, find, offers
from idl_hub.images.publish import PublishError, already, publish
from idl_hub.images.registry import Registry, RegistryError
from idl_hub.images.rollout import bring, later, supplies, why_not
from idl_hub.quiet import quiet_words
from idl_hub.settings import SettingsError
from idl_hub.settings_servers import EngineSettings
from idl_hub.shell import with_settings
from idl_hub.spawners.engine import Engine
from idl_hub.spawners.host import HostError
from idl_hub.spawners.hosts import make_host, this_machine

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine

    from sqlalchemy.orm import Session

    from idl_hub.images.offers import Image
    from idl_hub.images.rollout import Supply
    from idl_hub.settings import Settings

_PUSH_TIMEOUT_SECONDS = 600.0
QUIET = 3
"""Exit status: refused in the quiet hours; nothing was changed."""


def add_commands(subparsers: Any) -> None:
    """Add the command ``images`` with its verbs."""
    parser = subparsers.add_parser("images", help="publish students' images, bring them to all servers, offer them")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, run, text, add_arguments in COMMANDS:
        command = verbs.add_parser(verb, help=text, description=f"{text[0].upper()}{text[1:]}.")
        add_arguments(command)
        command.set_defaults(run=with_settings(f"images {verb}", _with_errors(verb, run)))


class Desk:
    """What a verb works with: the settings' registry, engines, and the table of images."""

    def __init__(self, settings: Settings, database: Database) -> None:
        if settings.spawner.kind != "docker":
            raise SettingsError("spawner.kind is not docker; without containers there are no images")
        if settings.images.registry is None:
            raise SettingsError(
                "images.registry is not set; without a registry, images are taken as they lie on the servers. "
                "docs/howto/new-image.md tells how to set one up"
            )
        self.settings = settings
        self.registry = settings.images.registry
        self.database = database
        self.offers = Offers(database)
        hosts = [make_host(server, settings.spawner) for server in settings.servers or [this_machine(settings)]]
        self.engines = [host for host in hosts if isinstance(host, Engine)]

    def name(self, arguments: argparse.Namespace) -> str:
        """Return the name of the image that is meant."""
        return str(arguments.image or self.settings.spawner.image)

    def quiet(self, *, force: bool) -> bool:
        """Say it when students must not be disturbed now; whether that forbids what was asked."""
        words = quiet_words(self.settings.quiet, datetime.now(UTC))
        if words and force:
            print(f"Warning: {words} Going on, since it is forced.", file=sys.stderr)
        elif words:
            print(f"{words} Nothing was changed. Do it afterwards, or use --force.", file=sys.stderr)
        return bool(words) and not force

    async def out_of_service(self) -> dict[str, str]:
        """Return drained servers with the reason."""

        def look(session: Session) -> dict[str, str]:
            query = select(OutOfServiceRow).where(OutOfServiceRow.kind == "server", OutOfServiceRow.ended_at.is_(None))
            return {row.target: row.reason for row in session.scalars(query)}

        return await self.database.run(look)

    async def note(self, what: str) -> None:
        """Write down for everybody what was done."""
        await Events(self.database).note("admin", f"{what} ({getpass.getuser()} at the shell)")

    def close(self) -> None:
        """Let go of the engines."""
        for engine in self.engines:
            engine.close()


def _with_errors(
    verb: str, run: Callable[[Desk, argparse.Namespace], Coroutine[Any, Any, int]]
) -> Callable[[Settings, argparse.Namespace], int]:
    def command(settings: Settings, arguments: argparse.Namespace) -> int:
        try:
            with (
                closing(Database(settings.hub.database_address)) as database,
                closing(Desk(settings, database)) as desk,
            ):
                return asyncio.run(run(desk, arguments))
        except (PublishError, RegistryError, HostError) as error:
            print(f"idl-hub images {verb}: {error}", file=sys.stderr)
        except (DockerException, RequestException) as error:
            print(f"idl-hub images {verb}: this machine's Docker engine does not do it: {error}", file=sys.stderr)
        return 1

    return command


# -- publish ------------------------------------------------------------------------------------------


def _add_publish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="its name on this machine (spawner.image)")


async def _publish(desk: Desk, arguments: argparse.Namespace) -> int:
    spawner, by = desk.settings.spawner, getpass.getuser()
    registry, board = Registry(desk.registry), Board([desk.registry])
    name = desk.name(arguments)
    latest = max(await desk.offers.of(name), key=lambda image: image.published_at, default=None)
    own = Engine("this machine", EngineSettings(url=spawner.engine_url), timeout_seconds=_PUSH_TIMEOUT_SECONDS)
    with closing(own):
        # One after the other anyway: nothing else waits for this loop.
        if latest is not None and already(own.client, registry, name, latest):
            image, new = latest, False
        else:
            image = publish(own.client, registry, name, by, board)
            new = await desk.offers.publish(image)
    if new:
        await desk.note(f"published {image.name} as {image.short}")
    print(
        f"{image.name} is in the registry as {image.digest} ({image.size_bytes / 1e6:.0f} MB packed)"
        + (". `idl-hub images rollout` brings it to the servers and offers it." if new else ", as it was before.")
    )
    return 0


# -- rollout and back -----------------------------------------------------------------------------------


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", metavar="NAME", help="another image than spawner.image")


def _add_rollout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "digest", nargs="?", default="latest", metavar="DIGEST", help="the beginning of its digest (latest)"
    )
    _add_name(parser)
    parser.add_argument("--no-offer", action="store_true", help="bring it to the servers and leave it at that")
    parser.add_argument("--force", action="store_true", help="in quiet hours, too, and though a server lacks it")


async def _rollout(desk: Desk, arguments: argparse.Namespace) -> int:
    images = await desk.offers.of(desk.name(arguments))
    # Before anything was offered there is no course to disturb.
    if offers(images) and desk.quiet(force=arguments.force):
        return QUIET
    image = find(images, arguments.digest)
    found = await bring(desk.engines, image, desk.registry, Board(engine.name for engine in desk.engines))
    if arguments.no_offer:
        return 0 if all(supply.has_it for supply in found) else 1
    if not await _may_be_offered(desk, image, found, force=arguments.force):
        return 1
    await desk.offers.offer(image)
    await desk.note(f"offered {image.name} as {image.short}")
    print(f"Offered: students' next servers run {image.short}. Sessions that run keep what they have.")
    return 0


def _add_back(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument("--force", action="store_true", help="though a server lacks it")


async def _back(desk: Desk, arguments: argparse.Namespace) -> int:
    name = desk.name(arguments)
    offered = offers(await desk.offers.of(name))
    if len(offered) < 2:
        print(f"Nothing of {name} was offered before the present one. Nothing was changed.", file=sys.stderr)
        return 1
    current, earlier = offered[:2]
    found = await supplies(desk.engines, earlier, desk.registry)
    if not await _may_be_offered(desk, earlier, found, force=arguments.force):
        return 1
    await desk.offers.withdraw(current)
    await desk.note(f"went back from {current.short} to {earlier.short} of {name}")
    print(f"Back: students' next servers run {earlier.short} again, not {current.short}. Sessions keep what they have.")
    return 0


async def _may_be_offered(desk: Desk, image: Image, found: list[Supply], *, force: bool) -> bool:
    drained = await desk.out_of_service()
    if waiting := later(found, drained):
        print(f"Without it for now: {', '.join(waiting)}. The hub has it pulled there once the server answers.")
    why = why_not(found, drained)
    if why and force:
        print(f"Warning: {why}. Offering it all the same; starts there fetch it first.", file=sys.stderr)
    elif why:
        print(
            f"{image.short} is not offered: {why}. Students go on with what they have. Mend that (or drain the server) "
            "and run this again; --force offers it all the same.",
            file=sys.stderr,
        )
    return force or not why


# -- list and prune -----------------------------------------------------------------------------------------


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


async def _list(desk: Desk, arguments: argparse.Namespace) -> int:
    stocks = await shelf.stocks(desk.engines, desk.registry)
    images = await desk.offers.all()
    print(
        shelf.as_json(images, stocks, desk.registry) if arguments.json else shelf.as_text(images, stocks, desk.registry)
    )
    return 0


def _add_nothing(_: argparse.ArgumentParser) -> None:
    """There is nothing to choose."""


async def _prune(desk: Desk, _: argparse.Namespace) -> int:
    kept, names = desk.settings.images.kept, [desk.settings.spawner.image]
    return await shelf.prune(desk.engines, desk.offers, Registry(desk.registry), kept, names)


COMMANDS = (
    ("publish", _publish, "bring an image from this machine into the registry", _add_publish),
    ("rollout", _rollout, "bring an image to all servers, then offer it to students", _add_rollout),
    ("back", _back, "offer the image again that was offered before", _add_back),
    ("list", _list, "show every image: offered or not, which servers have it, which sessions run it", _add_list),
    ("prune", _prune, "remove old images that nobody uses from servers and registry", _add_nothing),
)
