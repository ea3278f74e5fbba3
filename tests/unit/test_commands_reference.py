"""The page of commands and the commands themselves."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from idl_hub.cli import parser

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")


def commands(of: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield every command that can be run, at any depth."""
    below = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield of
    for action in below:
        for command in action.choices.values():
            yield from commands(command)


def sections() -> dict[str, str]:
    """Return heading -> text, of the page's commands."""
    parts = re.split(r"^### (idl-hub .*)$", PAGE.split("## idl-hub\n")[1], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_its_section() -> None:
    assert {command.prog for command in commands(parser())} <= set(sections())


def test_every_option_and_argument_stands_in_its_commands_section() -> None:
    for command in commands(parser()):
        own = sections()[command.prog]
        family = "".join(text for name, text in sections().items() if name.split()[1] == command.prog.split()[1])
        for action in command._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            names = action.option_strings or [action.dest]
            where = family if names == ["--state"] else own  # said once for all of them
            assert any(re.search(rf"`{re.escape(name)}\b", where) for name in names), f"{command.prog}: {names}"


def test_no_section_is_about_an_option_that_does_not_exist() -> None:
    for command in commands(parser()):
        known = {name for action in command._actions for name in action.option_strings}
        assert set(re.findall(r"^\| `(--[\w-]+)", sections()[command.prog], flags=re.MULTILINE)) <= known
