"""script/deploy: Ansible in its own environment, then one of the plays in ansible/."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

from script.lib import environments
from script.lib.console import Console, SetupError
from script.lib.locks import only_setup
from script.lib.places import ROOT, Places, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FOLDER = ROOT / "ansible"
_INVENTORY = _FOLDER / "inventory"


def parse(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the play, and the arguments meant for ansible-playbook."""
    plays = sorted(file.name for file in _FOLDER.glob("*.yml"))
    parser = argparse.ArgumentParser(
        prog="script/deploy",
        description="Installs Ansible into .state/ansible and runs a play with it, for the machines in "
        "ansible/inventory. Further arguments go to ansible-playbook, such as --check --diff, --limit gpu03, "
        "--ask-become-pass or -i ANOTHER_INVENTORY.",
        epilog=f"Plays: {', '.join(plays)}. docs/howto/deploy.md leads through the first time.",
    )
    parser.add_argument("play", metavar="PLAY", choices=plays, help="site.yml brings everything up to date")
    given, rest = parser.parse_known_args(arguments)
    return _FOLDER / given.play, rest


def main() -> int:
    """Set Ansible up and become it; return the exit status when that cannot be done."""
    os.environ.pop("PYTHONPATH", None)  # it led to this module and is nothing for Ansible
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    play, arguments = parse(sys.argv[1:])
    console = Console(sys.stderr)
    try:
        places = prepare(ROOT, None)
        _require_inventory(arguments)
        _set_up(console, places)
        _run(places, [str(play), *arguments])
    except SetupError as error:
        console.line(error.text())
        return 1
    except KeyboardInterrupt:
        console.line("Stopped. Run the same command again; it continues where it stopped.")
        return 130


def _require_inventory(arguments: Sequence[str]) -> None:
    named = any(word == "-i" or word.startswith(("-i", "--inventory")) for word in arguments)
    if not named and not _INVENTORY.exists():
        raise SetupError(
            f"There is no {_INVENTORY.relative_to(ROOT)}, which names the machines and the settings.",
            "Copy the example and fill it in: cp -r ansible/example ansible/inventory (docs/howto/deploy.md).",
        )


def _set_up(console: Console, places: Places) -> None:
    with ExitStack() as held:
        with console.step("Other runs") as step:
            held.enter_context(only_setup(places.tools, step))
            step.note = "none at work"
        with console.step("Ansible") as step:
            environments.ensure_ansible(step, places)


def _run(places: Places, arguments: Sequence[str]) -> NoReturn:
    programs = places.ansible / "bin"
    os.environ["PATH"] = f"{programs}:{os.environ.get('PATH', '')}"
    os.environ["ANSIBLE_CONFIG"] = str(_FOLDER / "ansible.cfg")
    # Ansible's collections and Python's printing of text want UTF-8, which a bare machine may not have set.
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    # Relative inventories are meant from where the command was given.
    program = programs / "ansible-playbook"
    os.execv(program, [str(program), *arguments])  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    sys.exit(main())
