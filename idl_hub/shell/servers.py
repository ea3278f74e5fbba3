"""``idl-hub servers``: each server, whether its engine and agent answer, and what runs there."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from idl_hub.db import Reader
from idl_hub.gpus.members import SAY_AT_LEAST_EVERY_SECONDS, members_in
from idl_hub.shell.look import picture_of
from idl_hub.shell.table import gib, moment, percent, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Mapping

    from idl_hub.settings import Settings
    from idl_hub.web.picture import Picture

_HEADS = ("SERVER", "ADDRESS", "ENGINE", "AGENT", "DRIVER", "FREE", "TAKEN", "OTHER", "SESSIONS", "CPU", "GIB", "OF")
_RIGHT = ("FREE", "TAKEN", "OTHER", "SESSIONS", "CPU", "GIB", "OF", "DISK FREE")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the servers as GET api/fleet of idl-hub web does")


def _servers(settings: Settings, arguments: argparse.Namespace) -> int:
    picture = picture_of(settings)
    with closing(Reader(settings.hub.database_address)) as reader:
        said_at = {member.name: member.said_at for member in reader.look(members_in)}
    if arguments.json:
        print(json.dumps(picture.servers, indent=2))
        return 0
    rows = [_row(name, server, picture, known=name in said_at) for name, server in picture.servers.items()]
    print(table((*_HEADS, "DISK FREE", "STATE"), rows, right=_RIGHT))
    for name, server in picture.servers.items():
        for words in _remarks(server):
            print(f"{name}: {words}")
    print(_sum(picture.servers, said_at.values()))
    return 0


def _row(name: str, server: Mapping[str, Any], picture: Picture, *, known: bool) -> tuple[str, ...]:
    states = [gpu["state"] for gpu in picture.gpus.values() if gpu["server"] == name]
    taken = states.count("taken")
    counts = (str(server["free"]), str(taken), str(len(states) - server["free"] - taken))
    total, available = server["memory_total_bytes"], server["memory_available_bytes"]
    return (
        name,
        server["address"] or "-",
        _engine(server) if known else "unknown",
        _agent(server),
        server["driver_version"] or "-",
        *(counts if server["has_gpus"] else ("-", "-", "-")),
        str(server["sessions"]),
        percent(server["cpu_utilization_ratio"]),
        gib(None if total is None else total - available),
        gib(total),
        ", ".join(f"{disk['path']} {gib(disk['free_bytes'])}" for disk in server["disks"]) or "-",
        _state(server),
    )


def _engine(server: Mapping[str, Any]) -> str:
    if server["engine_fault"] is not None:
        since = server["engine_silent_since"]
        return f"silent since {moment(since)}" if since else "silent"
    return server["engine_version"] or "answers"


def _agent(server: Mapping[str, Any]) -> str:
    if not server["has_gpus"]:
        return "none"
    if server["agent_fault"] or server["last_reading_at"]:
        return "silent"
    return "answers" if server["gpus"] or server["driver_version"] else "unknown"


def _state(server: Mapping[str, Any]) -> str:
    if server["leaving"]:
        return "leaving"
    if server["drained"]:
        return "drained"
    return "in service" if server["healthy"] else "trouble"


def _remarks(server: Mapping[str, Any]) -> list[str]:
    """Return what there is to know beyond a word."""
    said = []
    if drained := server["drained"]:
        said.append(f"drained: {drained['reason']} ({drained['by']}, {moment(drained['since'])})")
    if server["leaving"] or not server["healthy"]:
        said.append(server["health"])
    return said


def _sum(servers: Mapping[str, Mapping[str, Any]], said_at: Collection[float]) -> str:
    """Count, or say that what stands there of engines cannot be believed: the hub alone asks them."""
    if not said_at:
        return "The hub has not told anything of its servers yet. Was it started?"
    if time.time() - max(said_at) > 3 * SAY_AT_LEAST_EVERY_SECONDS:
        return f"The hub has told nothing since {moment(max(said_at))}: what stands here of engines is from then."
    return f"{_count(len(servers), 'server')}, {_count(sum(one['sessions'] for one in servers.values()), 'session')}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


COMMANDS = (("servers", _servers, "show every server: engine, agent, GPUs, sessions, load and state", _add_arguments),)
