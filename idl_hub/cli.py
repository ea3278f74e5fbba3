"""The command ``idl-hub``.

Each part of the package brings its own subcommands: a module with ``add_commands(subparsers)``
that sets ``run`` (a function from the parsed arguments to an exit status) on each parser it adds.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING

from idl_hub import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND_MODULES = ("idl_hub.settings_commands", "idl_hub.gpus.simulator.commands")


def parser() -> argparse.ArgumentParser:
    """Return the whole command line, every subcommand included."""
    root = argparse.ArgumentParser(prog="idl-hub", description="Run and look after a GPU classroom.")
    root.add_argument("--version", action="version", version=f"idl-hub {__version__}")
    subparsers = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMAND_MODULES:
        importlib.import_module(name).add_commands(subparsers)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (0 done, 1 failed, 2 wrongly called)."""
    parsed = parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader (head, less) went away
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
