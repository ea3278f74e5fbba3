"""``idl-hub web``: serves the map, the line and their REST interface."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY
from tornado.httpserver import HTTPServer

from idl_hub import settings as settings_module
from idl_hub.db import Database, Reader
from idl_hub.gpus import reclaim
from idl_hub.gpus.fleet import from_settings
from idl_hub.settings import Settings, SettingsError
from idl_hub.web import application, service
from idl_hub.web.live import Live
from idl_hub.web.metrics import WebMetrics
from idl_hub.web.picture import Terms
from idl_hub.web.silence import Terms as SilenceTerms

if TYPE_CHECKING:
    import argparse

log = logging.getLogger("idl_hub.web")


def add_commands(subparsers: Any) -> None:
    """Add the command ``web``."""
    text = "serve the map of the GPUs, the waiting line and their REST interface, beside the hub"
    parser = subparsers.add_parser("web", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(run=_run)


def _run(_arguments: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("tornado.access", "tornado.application"):  # who looked at what is nobody's business
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        settings = settings_module.load(settings_module.files_from_environment())
        settings.hub.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        asyncio.run(_serve(settings))
    except SettingsError as error:
        print(f"idl-hub web cannot start: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"idl-hub web cannot start: {error}. Check hub.state_directory, and that nobody else has "
            "hub.web_port at 127.0.0.1 and at hub.internal_address.",
            file=sys.stderr,
        )
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    """Serve until told to end."""
    ending = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    if settings.gpus.simulated:
        # The stand-in library reads where its state is from the environment, as it does in containers.
        os.environ["IDLHUB_SIMULATOR_STATE"] = str(settings.gpus.simulator_state)
    async with AsyncExitStack() as held:
        database, reader = Database(settings.hub.database_address), Reader(settings.hub.database_address)
        held.callback(database.close)
        held.callback(reader.close)
        silence = SilenceTerms(settings.spawner.server_lost_minutes * 60, bool(settings.homes.fence_command))
        terms = Terms(reclaim.policy_from(settings), settings.sessions.open_within_minutes * 60, silence)
        fleet = from_settings(settings, lambda: live.closed())  # noqa: PLW0108 - it comes next
        live = Live(fleet, reader, terms)
        app = application.make(settings, live, database, application.hub_auth(settings))
        server = HTTPServer(app, xheaders=False)
        REGISTRY.register(WebMetrics(live))
        for address in {"127.0.0.1", settings.hub.internal_address}:
            server.listen(settings.hub.web_port, address)
        held.callback(server.stop)
        held.callback(live.close)
        for work in (fleet.run(), live.run()):
            held.push_async_callback(_end, asyncio.create_task(work))
        log.info("Serving %s at port %d", service.PREFIX, settings.hub.web_port)
        await ending.wait()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
