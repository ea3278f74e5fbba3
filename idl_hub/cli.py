"""The command ``idl-hub``.

Each part of the package brings its own subcommands: a module with ``add_commands(subparsers)``
that sets ``run`` (a function from the parsed arguments to an exit status) on each parser it adds.
Only the module of the command that is called is imported: the agent runs on every server and has no
use for the hub's libraries.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING

from idl_hub import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

_OF_SHELL = (
    *("gpus", "servers", "line", "drain", "undrain", "exclude", "include", "dead", "reload", "quiet", "end"),
    *("why", "usage"),
)
COMMAND_MODULES = {
    "settings": "idl_hub.settings_commands",
    "simulate": "idl_hub.gpus.simulator.commands",
    "agent": "idl_hub.gpus.agent_command",
    "web": "idl_hub.web.commands",
    "images": "idl_hub.images.commands",
    "homes": "idl_hub.homes.commands",
    "snapshots": "idl_hub.homes.snapshots_commands",
    "firewall": "idl_hub.servers.firewall_command",
    "smoke": "idl_hub.smoke.commands",
    "doctor": "idl_hub.doctor.commands",
    **dict.fromkeys(_OF_SHELL, "idl_hub.shell"),
}
"""Command -> the module that adds it; one module may add several."""


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the command line: that of one command alone where it is known, else all of it."""
    root = argparse.ArgumentParser(prog="idl-hub", description="Run and look after a GPU classroom.")
    root.add_argument("--version", action="version", version=f"idl-hub {__version__}")
    subparsers = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = [COMMAND_MODULES[command]] if command in COMMAND_MODULES else COMMAND_MODULES.values()
    for name in dict.fromkeys(modules):
        importlib.import_module(name).add_commands(subparsers)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (0 done, 1 failed, 2 wrongly called)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parsed = parser(words[0] if words else None).parse_args(words)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader (head, less) went away
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
