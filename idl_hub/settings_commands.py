"""``idl-hub settings check`` and ``idl-hub settings show``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from idl_hub import settings

if TYPE_CHECKING:
    import argparse


def add_commands(subparsers: Any) -> None:
    """Add the command ``settings`` with its two verbs."""
    parser = subparsers.add_parser("settings", help="check or show the settings")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, run, text in (
        ("check", _check, "say whether the settings can be used, and if not, what to change"),
        ("show", _show, "print every setting in force, defaults included, secrets masked"),
    ):
        command = verbs.add_parser(verb, help=text, description=text)
        command.add_argument(
            "file",
            nargs="*",
            type=Path,
            help=f"settings files, later ones win (else ${settings.SETTINGS_VARIABLE}, else {settings.DEFAULT_FILE})",
        )
        command.set_defaults(run=run)


def _load(arguments: argparse.Namespace) -> settings.Settings | None:
    try:
        return settings.load(arguments.file or settings.files_from_environment())
    except settings.SettingsError as error:
        print(f"idl-hub settings: {error}", file=sys.stderr)
        return None


def _check(arguments: argparse.Namespace) -> int:
    if _load(arguments) is None:
        return 1
    print("The settings can be used.")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments)
    if loaded is None:
        return 1
    # Secrets are SecretStr, which JSON mode writes as asterisks.
    print(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    return 0
