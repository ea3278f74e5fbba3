"""``idl-hub snapshots``: takes, lists, drops and brings back earlier versions of homes."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from idl_hub import settings as settings_module
from idl_hub.homes import safe
from idl_hub.homes.restore import RestoreError, bring_back
from idl_hub.homes.snapshots import Snapshots
from idl_hub.homes.snapshots_folder import MARKER, SnapshotsError
from idl_hub.homes.words import size
from idl_hub.settings import SettingsError
from idl_hub.shell.table import moment, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from idl_hub.homes.snapshots import Outcome

_MODE = 0o711


def add_commands(subparsers: Any) -> None:
    """Add the command ``snapshots`` with its verbs."""
    parser = subparsers.add_parser("snapshots", help="take, list, drop and bring back earlier versions of homes")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[Snapshots, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = verbs.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        command.set_defaults(run=_with_snapshots(run))
        return command

    init = verb("init", _init, "make the folder of earlier versions usable: run it once")
    init.add_argument("--own-disk", action="store_true", help="it lies on this machine's own disk, not a mounted one")
    take = verb("take", _take, "copy the homes that changed, and drop what is kept no longer; run it every hour")
    take.add_argument("account", nargs="*", metavar="ACCOUNT", help="whose homes (all)")
    shown = verb("list", _list, "list the earlier versions of homes")
    shown.add_argument("account", nargs="?", metavar="ACCOUNT", help="list each copy of this one's home")
    shown.add_argument("--json", action="store_true", help="print JSON")
    verb("prune", _prune, "drop what the settings keep no longer")
    restore = verb("restore", _restore, "bring a file or folder back into a home; nothing there is overwritten")
    restore.add_argument("account", metavar="ACCOUNT", help="whose home")
    restore.add_argument("snapshot", metavar="SNAPSHOT", help="name of the copy, as `idl-hub snapshots list` shows it")
    restore.add_argument("path", metavar="PATH", help="file or folder in the home")


def _with_snapshots(run: Callable[[Snapshots, argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return the command with its settings read and its errors told in one line."""

    def command(arguments: argparse.Namespace) -> int:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        try:
            snapshots = Snapshots(settings_module.load(settings_module.files_from_environment()))
            return run(snapshots, arguments)
        except (SettingsError, SnapshotsError, RestoreError, safe.PathError) as error:
            print(f"idl-hub snapshots: {error}", file=sys.stderr)
        except OSError as error:
            print(f"idl-hub snapshots: {error}. Check the disks of homes and of copies.", file=sys.stderr)
        return 1

    return command


def _init(snapshots: Snapshots, arguments: argparse.Namespace) -> int:
    directory = snapshots.directory
    nearest = next(place for place in (directory, *directory.parents) if place.exists())
    if nearest.stat().st_dev == os.stat("/").st_dev and not arguments.own_disk:  # noqa: PTH116 - Path("/") says no more
        raise SnapshotsError(
            f"{directory} lies on the disk of / and nothing is mounted there. Mount its disk first; or, if the copies "
            "are to lie on this disk, say --own-disk. Nothing was made."
        )
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(_MODE)
    (directory / MARKER).write_text("Earlier versions of students' homes are here. None are made without this file.\n")
    print(f"{directory} is ready for earlier versions.")
    return 0


def _take(snapshots: Snapshots, arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    outcomes: list[Outcome] = []
    for outcome in snapshots.take(tuple(arguments.account)):
        outcomes.append(outcome)
        if outcome.fault:
            print(f"{outcome.account}: {'copied ' if outcome.snapshot else ''}{outcome.fault}.", file=sys.stderr)
    copied = [outcome for outcome in outcomes if outcome.snapshot]
    unchanged = sum(outcome.unchanged for outcome in outcomes)
    failed = len(outcomes) - len(copied) - unchanged
    copied_bytes = sum(outcome.tally.copied_bytes for outcome in copied if outcome.tally)
    print(
        f"{len(copied)} of {len(outcomes)} homes copied ({size(copied_bytes)} anew), {unchanged} unchanged, "
        f"{failed} failed, in {time.monotonic() - started:.1f} s."
    )
    return 1 if any(outcome.fault for outcome in outcomes) else 0


def _list(snapshots: Snapshots, arguments: argparse.Namespace) -> int:
    if arguments.account:
        return _list_one(snapshots, arguments)
    found = [_about(snapshots, account) for account in snapshots.accounts()]
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    rows = [
        (one["account"], str(one["snapshots"]), _moment(one["oldest"]), _moment(one["newest"]), _moment(one["checked"]))
        for one in found
    ]
    heads = ("HOME", "COPIES", "OLDEST", "NEWEST", "UNCHANGED AT")
    print(table(heads, rows, right=("COPIES",)) if rows else "There are no earlier versions yet.")
    return 0


def _list_one(snapshots: Snapshots, arguments: argparse.Namespace) -> int:
    copies = snapshots.of(arguments.account)
    if arguments.json:
        print(json.dumps([{"name": one.name, "taken_at": round(one.taken_at.timestamp())} for one in copies], indent=2))
    elif copies:
        print(table(("SNAPSHOT", "TAKEN"), [(one.name, snapshots.words(one.taken_at)) for one in copies]))
    else:
        print(f"There are no earlier versions of the home of {arguments.account} yet.")
    return 0


def _about(snapshots: Snapshots, account: str) -> dict[str, Any]:
    copies = snapshots.of(account)
    checked = snapshots.checked_at(account)
    return {
        "account": account,
        "snapshots": len(copies),
        "oldest": round(copies[0].taken_at.timestamp()) if copies else None,
        "newest": round(copies[-1].taken_at.timestamp()) if copies else None,
        "checked": round(checked.timestamp()) if checked else None,
    }


def _moment(seconds: float | None) -> str:
    return "-" if seconds is None else moment(seconds)


def _prune(snapshots: Snapshots, _arguments: argparse.Namespace) -> int:
    gone: Sequence[object] = snapshots.prune()
    print(f"{len(gone)} copies dropped.")
    return 0


def _restore(snapshots: Snapshots, arguments: argparse.Namespace) -> int:
    path = safe.parts_of(arguments.path)
    done = bring_back(snapshots, arguments.account, arguments.snapshot, path)
    where = "/".join(done.path)
    if not done.entries:
        print(f"{where} is there unchanged; nothing was done.")
    else:
        print(f"Brought back as {where}: {done.entries} files and folders, {size(done.size_bytes)}.")
    return 0
