"""What an admin looks at and does from the shell: GPUs, the line, a person's story, usage, drain and exclude."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from idl_hub import settings as settings_module
from idl_hub.db import DatabaseError
from idl_hub.settings import SettingsError
from idl_hub.shell import ask, look, servers, upkeep, usage, why

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from idl_hub.settings import Settings


def add_commands(subparsers: Any) -> None:
    """Add the commands."""
    for module in (look, servers, ask, upkeep, why, usage):
        for name, run, text, add_arguments in module.COMMANDS:
            parser = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
            add_arguments(parser)
            parser.set_defaults(run=with_settings(name, run))


def with_settings(name: str, run: Callable[[Settings, argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return the command with its settings read and its errors told in one line."""

    def command(arguments: argparse.Namespace) -> int:
        try:
            return run(settings_module.load(settings_module.files_from_environment()), arguments)
        except (SettingsError, DatabaseError, ValueError) as error:
            print(f"idl-hub {name}: {error}", file=sys.stderr)
        except SQLAlchemyError as error:
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            print(
                f"idl-hub {name}: the hub's database cannot be read ({cause}). Nothing was changed. Check that the "
                f"hub was started once, that you may read its files, and {settings_module.SETTINGS_VARIABLE}.",
                file=sys.stderr,
            )
        return 1

    return command
