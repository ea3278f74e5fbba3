"""``idl-hub gpus`` and ``idl-hub line``: what the map shows, as text."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from idl_hub.db import Reader
from idl_hub.gpus import reclaim
from idl_hub.gpus.fleet import from_settings
from idl_hub.gpus.members import members_in, servers_of
from idl_hub.shell.table import gib, moment, percent, table
from idl_hub.web.live import Live
from idl_hub.web.picture import Terms

if TYPE_CHECKING:
    import argparse

    from idl_hub.settings import Settings
    from idl_hub.web.picture import Picture

_READING_SECONDS = 8


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it as GET api/fleet of idl-hub web returns it")


def picture_of(settings: Settings) -> Picture:
    """Read all GPUs and the tables once; servers that do not answer in time are shown as such."""
    if settings.gpus.simulated:
        os.environ["IDLHUB_SIMULATOR_STATE"] = str(settings.gpus.simulator_state)
    return asyncio.run(_look(settings))


async def _look(settings: Settings) -> Picture:
    with closing(Reader(settings.hub.database_address)) as reader:
        fleet = from_settings(settings, lambda: live.closed())  # noqa: PLW0108 - it comes next
        terms = Terms(reclaim.policy_from(settings), settings.sessions.open_within_minutes * 60)
        live = Live(fleet, reader, terms)
        if servers := servers_of(await reader.run(members_in)):
            fleet.follow(servers)  # as the hub has them, whatever the settings say by now
        reading = asyncio.create_task(fleet.run())
        try:
            await fleet.wait_first(_READING_SECONDS)
            return await live.now()
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading


def _gpus(settings: Settings, arguments: argparse.Namespace) -> int:
    picture = picture_of(settings)
    if arguments.json:
        print(json.dumps(picture.as_json(), indent=2))
        return 0
    heads = ("SERVER", "GPU", "STATE", "HOLDER", "LOAD", "GIB", "OF", "°C", "REASON")
    rows = [
        (
            gpu["server"],
            str(gpu["index"]),
            "out of service" if gpu["state"] == "closed" else gpu["state"],
            gpu["holder"] or "-",
            percent(gpu["utilization_ratio"]),
            gib(gpu["memory_used_bytes"]),
            gib(gpu["memory_total_bytes"]),
            "-" if gpu["temperature_celsius"] is None else str(gpu["temperature_celsius"]),
            "" if gpu["state"] in ("free", "taken") else gpu["reason"],
        )
        for gpu in picture.gpus.values()
    ]
    print(table(heads, rows, right=("GPU", "LOAD", "GIB", "OF", "°C")))
    for name, server in picture.servers.items():
        if server["drained"]:
            print(f"{name} is drained: {server['drained']['reason']} ({server['drained']['by']})")
        elif not server["healthy"]:
            print(f"{name}: {server['health']}")
    totals = picture.totals
    simulated = " (simulated)" if totals["simulated"] else ""
    print(
        f"{totals['free']} of {totals['gpus']} GPUs free{simulated}, {totals['taken']} taken, {totals['other']} other."
    )
    return 0


def _line(settings: Settings, arguments: argparse.Namespace) -> int:
    places = picture_of(settings).line
    if arguments.json:
        print(json.dumps(places, indent=2))
        return 0
    if not places:
        print("Nobody waits.")
        return 0
    heads = ("PLACE", "USER", "SERVER", "GPUS", "SINCE", "STATE", "EXPECTED")
    rows = [
        (
            str(place["position"] or "-"),
            place["user"],
            place["server_name"] or "-",
            str(place["gpu_count"]),
            moment(place["since"]),
            place["state"],
            place["expected_text"],
        )
        for place in places
    ]
    print(table(heads, rows, right=("PLACE", "GPUS")))
    return 0


COMMANDS = (
    ("gpus", _gpus, "show every GPU: state, holder, load, and why it is not given out", _add_arguments),
    ("line", _line, "show who waits for a GPU, and what is expected when", _add_arguments),
)
