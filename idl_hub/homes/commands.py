"""``idl-hub homes init``, ``check`` and ``usage``: on the hub's machine, or wherever the homes are mounted."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idl_hub import settings as settings_module
from idl_hub.homes import safe, space
from idl_hub.homes.patience import Patience, Silent
from idl_hub.homes.store import MARKER, HomesError, open_homes
from idl_hub.homes.words import size
from idl_hub.settings import SettingsError
from idl_hub.shell.table import table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from idl_hub.settings_servers import HomeSettings

_MODE = 0o711
_ANSWER_SECONDS = 10.0
_COUNT_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    fine: bool
    text: str


def add_commands(subparsers: Any) -> None:
    """Add the command ``homes`` with its verbs."""
    parser = subparsers.add_parser("homes", help="look after the folder of students' homes")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, run, text in (
        ("init", _init, "make the folder of homes usable: run it once, where the homes are"),
        ("check", _check, "say whether the homes can be used from this machine, and if not, what is wrong"),
        ("usage", _usage, "list the homes by the space they take"),
    ):
        command = verbs.add_parser(verb, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(run=run)
        if verb == "init":
            command.add_argument(
                "--own-disk", action="store_true", help="the homes lie on this machine's own disk, not on a mounted one"
            )
        if verb == "usage":
            command.add_argument("--json", action="store_true", help="print JSON")


def _settings() -> tuple[HomeSettings, Path]:
    homes = settings_module.load(settings_module.files_from_environment()).homes
    if homes.directory is None:
        raise SettingsError("homes.directory is not set, so homes are Docker volumes, which this does not look after")
    return homes, homes.directory


def _init(arguments: argparse.Namespace) -> int:
    try:
        _, directory = _settings()
        print(init(directory, own_disk=arguments.own_disk))
    except (SettingsError, OSError) as error:
        print(f"idl-hub homes: {error}", file=sys.stderr)
        return 1
    return 0


def init(directory: Path, *, own_disk: bool) -> str:
    """Make the folder of homes and its marker; return what was done, in words.

    Raises
    ------
    SettingsError
        It lies on the disk of the system itself, and nobody said that it should.
    OSError
        It cannot be made.
    """
    nearest = next(place for place in (directory, *directory.parents) if place.exists())
    if nearest.stat().st_dev == os.stat("/").st_dev and not own_disk:  # noqa: PTH116 - Path("/") says no more
        raise SettingsError(
            f"{directory} lies on the disk of / and nothing is mounted there. Mount the homes first; or, if they are "
            "to lie on this disk, say --own-disk. Nothing was made."
        )
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(_MODE)
    marker = directory / MARKER
    if marker.exists():
        return f"{directory} was ready already."
    marker.write_text("Students' homes are here. idl_hub starts no server where this file is missing.\n")
    marker.chmod(0o444)
    return f"{directory} is ready for homes."


def _check(_arguments: argparse.Namespace) -> int:
    try:
        homes, directory = _settings()
    except SettingsError as error:
        print(f"idl-hub homes: {error}", file=sys.stderr)
        return 1
    try:
        findings = asyncio.run(Patience("homes", 1).call(_ANSWER_SECONDS, lambda: list(check(homes, directory))))
    except Silent:
        findings = [Finding(fine=False, text=f"{directory} gave no answer within {_ANSWER_SECONDS:.0f} s")]
    for finding in findings:
        print(f"{'ok   ' if finding.fine else 'WRONG'}  {finding.text}")
    return 0 if all(finding.fine for finding in findings) else 1


def check(homes: HomeSettings, directory: Path) -> Iterator[Finding]:
    """Look at everything that a start needs of the homes; stops where nothing more can be told."""
    try:
        found = open_homes(directory)
    except HomesError as error:
        yield Finding(fine=False, text=error.cause)
        return
    with safe.held(found):
        yield Finding(fine=True, text=f"{directory} is there, with its marker")
        mode = os.fstat(found).st_mode
        open_to_all = mode & (stat.S_IWGRP | stat.S_IWOTH)
        yield Finding(
            fine=not open_to_all,
            text=f"others than root may {'' if open_to_all else 'not '}write to {directory} itself",
        )
        yield _can_give_away(found, safe.Owner(homes.uid, homes.gid))
        disk = space.disk_of(found)
        there = space.room(disk)
        yield Finding(
            fine=there.state is space.State.OK,
            text=f"{size(disk.free_bytes)} of {size(disk.total_bytes)} free on the disk of the homes",
        )


def _can_give_away(homes: int, owner: safe.Owner) -> Finding:
    name = f".idl_hub-check-{secrets.token_hex(6)}"
    what = f"making a folder that belongs to user {owner.uid} and group {owner.gid}"
    try:
        with safe.held(safe.make_folder(homes, name, owner)):
            return Finding(fine=True, text=f"{what} works")
    except OSError as error:
        why = f"{what} fails: {error.strerror}. Run this as root; export NFS with no_root_squash to this machine"
        return Finding(fine=False, text=why)
    finally:
        with suppress(OSError):
            os.rmdir(name, dir_fd=homes)


def _usage(arguments: argparse.Namespace) -> int:
    try:
        homes, directory = _settings()
        found = sorted(usage(homes, directory), key=lambda one: (-(one[1] or 0), one[0]))
    except (SettingsError, HomesError, OSError) as error:
        print(f"idl-hub homes: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps([{"name": name, "used_bytes": used} for name, used in found], indent=2))
        return 0
    rows = [(name, size(used) if used is not None else "-", _share(used, homes.quota)) for name, used in found]
    print(table(("HOME", "USED", "OF QUOTA"), rows, right=("USED", "OF QUOTA")) if rows else "There are no homes yet.")
    return 0


def usage(homes: HomeSettings, directory: Path) -> Iterator[tuple[str, int | None]]:
    """Yield each home's name and the space it takes; None where it cannot be read."""
    rights = safe.Owner(homes.uid, homes.gid) if os.geteuid() == 0 else None
    with safe.held(open_homes(directory)) as opened:
        names = sorted(entry.name for entry in os.scandir(opened) if entry.is_dir(follow_symlinks=False))
    for name in names:
        try:
            with safe.held(safe.open_account(directory, name)) as home:
                yield name, space.count_used(f"/proc/self/fd/{home}", _COUNT_SECONDS, rights)
        except safe.PathError:
            continue  # something that is nobody's home
        except OSError:
            yield name, None


def _share(used: int | None, quota: int | None) -> str:
    return f"{used / quota:.0%}" if used is not None and quota else "-"
