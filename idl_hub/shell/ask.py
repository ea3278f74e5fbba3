"""``idl-hub drain``, ``undrain``, ``exclude``, ``include``, ``reload``: the hub alone carries such requests out."""

from __future__ import annotations

import getpass
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from idl_hub.db import Database
from idl_hub.db.commands import ASKED, DONE, Commands
from idl_hub.shell.look import picture_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from idl_hub.settings import Settings

_ANSWER_SECONDS = 15


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER", help="name of the server, as `idl-hub gpus` shows it")


def _add_server_and_reason(parser: argparse.ArgumentParser) -> None:
    _add_server(parser)
    parser.add_argument("--reason", default="maintenance", help="why, for others to read (maintenance)")
    _add_force(parser)


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="also in the quiet hours before the deadline")


def _add_gpu(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("gpu", metavar="GPU", help="a UUID, or SERVER:NUMBER such as gpu03:5")


def _add_gpu_and_reason(parser: argparse.ArgumentParser) -> None:
    _add_gpu(parser)
    parser.add_argument("--reason", default="excluded", help="why, for others to read (excluded)")
    _add_force(parser)


def _drain(settings: Settings, arguments: argparse.Namespace) -> int:
    asked = {"server": arguments.server, "reason": arguments.reason, "force": arguments.force}
    return ask(settings, "drain", asked)


def _undrain(settings: Settings, arguments: argparse.Namespace) -> int:
    return ask(settings, "undrain", {"server": arguments.server})


def _exclude(settings: Settings, arguments: argparse.Namespace) -> int:
    uuid = _uuid(settings, arguments.gpu)
    return ask(settings, "exclude", {"gpu_uuid": uuid, "reason": arguments.reason, "force": arguments.force})


def _include(settings: Settings, arguments: argparse.Namespace) -> int:
    return ask(settings, "include", {"gpu_uuid": _uuid(settings, arguments.gpu)})


def _dead(settings: Settings, arguments: argparse.Namespace) -> int:
    return ask(settings, "declare_dead", {"server": arguments.server})


def _add_nothing(_parser: argparse.ArgumentParser) -> None:
    pass


def _reload(settings: Settings, _arguments: argparse.Namespace) -> int:
    return ask(settings, "reload", {})


def _uuid(settings: Settings, named: str) -> str:
    """Return the UUID of a GPU named by it or by server and number."""
    server, colon, number = named.rpartition(":")
    if not colon:
        return named
    for gpu in picture_of(settings).gpus.values():
        if gpu["uuid"] and gpu["server"] == server and str(gpu["index"]) == number:
            return str(gpu["uuid"])
    raise ValueError(f"there is no GPU {named} now; `idl-hub gpus` shows which there are. Nothing was changed.")


def ask(settings: Settings, kind: str, arguments: Mapping[str, str | bool]) -> int:
    """Ask the hub, wait for its answer, print it, and return the exit status."""
    with closing(Database(settings.hub.database_address)) as database:
        asked_by = f"{getpass.getuser()} at the shell"
        answer = Commands(database).ask_and_wait(kind, arguments, asked_by, _ANSWER_SECONDS)
    if answer.state == DONE:
        print(answer.result)
        return 0
    if answer.state == ASKED:
        print(
            f"The hub has not answered within {_ANSWER_SECONDS} s. Does it run? "
            "If it comes back within a minute, it does what was asked; else nothing is changed.",
            file=sys.stderr,
        )
        return 1
    print(answer.result, file=sys.stderr)
    return 1


COMMANDS = (
    ("drain", _drain, "give a server no new sessions; those that run go on", _add_server_and_reason),
    ("undrain", _undrain, "bring a drained server back", _add_server),
    ("exclude", _exclude, "give a GPU to nobody any more; a session on it goes on", _add_gpu_and_reason),
    ("include", _include, "bring an excluded or sick GPU back", _add_gpu),
    ("dead", _dead, "end all sessions of a server that is off and does not answer", _add_server),
    ("reload", _reload, "have the hub read its settings anew: servers join and leave without a restart", _add_nothing),
)
