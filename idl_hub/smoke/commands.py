"""``idl-hub smoke``."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idl_hub import subdomains
from idl_hub.db.accounts import SMOKE_TEST
from idl_hub.doctor.certificates import authorities
from idl_hub.people import SMOKER
from idl_hub.shell import with_settings
from idl_hub.shell.table import table
from idl_hub.smoke.failure import NotNowError, SmokeError
from idl_hub.smoke.run import Plan, Report, SmokeTest
from idl_hub.smoke.site import Place, Site
from idl_hub.smoke.traces import Situation, Traces
from idl_hub.tokens import service_token

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from idl_hub.settings import Settings

NOT_NOW = 3
"""Exit status: nothing was tried, since that would have taken a GPU from a student."""
_ALL = "all"


def add_commands(subparsers: Any) -> None:
    """Add the command ``smoke``."""
    text = "log in as a student who exists for a minute: start a server, train on its GPU, remove everything"
    parser = subparsers.add_parser("smoke", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--address", metavar="URL", help="address of the hub as people type it (hub.address)")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="who vouches for that address beside the usual")
    parser.add_argument(
        "--server",
        default="",
        metavar="NAME",
        help=f"the server to try, drained or not; {_ALL}: each (the hub's choice)",
    )
    parser.add_argument("--no-train", action="store_true", help="leave out the training, which needs TensorFlow")
    parser.add_argument("--force", action="store_true", help="also while students wait in line")
    parser.set_defaults(run=with_settings("smoke", _smoke))


def _smoke(settings: Settings, arguments: argparse.Namespace) -> int:
    try:
        with _alone(settings), closing(Traces(settings)) as traces:
            return asyncio.run(_run(settings, arguments, traces))
    except NotNowError as error:
        print(f"No smoke test was made: {error}", file=sys.stderr)
        return NOT_NOW
    except SmokeError as error:
        print(f"idl-hub smoke: {error}", file=sys.stderr)
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except OSError as error:
        print(f"idl-hub smoke: {error}. Run it as the hub's own user, where the hub runs.", file=sys.stderr)
    return 1


async def _run(settings: Settings, arguments: argparse.Namespace, traces: Traces) -> int:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run made it
    # What was begun is tidied up, whoever ends this: Ctrl-C does the same by itself.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    plans = plans_for(settings, arguments, await traces.situation())
    failed = []
    async with Site(place(settings, arguments)) as site:
        for plan in plans:
            report = await _one(site, traces, plan)
            if report.failure:
                failed.append(report.server or "the server")
    if failed:
        print(f"FAILED: {', '.join(failed)}. Students there meet the same.")
        return 1
    print("All is well: a student can log in, start, train and save.")
    return 0


async def _one(site: Site, traces: Traces, plan: Plan) -> Report:
    test = SmokeTest(site, traces, plan, partial(print, "  ", flush=True))
    try:
        return await test.run()
    finally:
        _show(test.report)


def _show(report: Report) -> None:
    rows = [(stage.name, f"{stage.seconds:.1f}", stage.result) for stage in report.stages]
    rows.append(("in all", f"{sum(stage.seconds for stage in report.stages):.1f}", ""))
    print(f"\nSmoke test{f' of {report.server}' if report.server else ''}")
    print(table(("STAGE", "SECONDS", "RESULT"), rows, right=("SECONDS",)))
    print(report.failure, end="\n" if report.failure else "", flush=True)


def plans_for(settings: Settings, arguments: argparse.Namespace, now: Situation) -> list[Plan]:
    """Return what is to be tried, a plan for each server.

    Raises
    ------
    NotNowError
        Students wait in line, and a GPU that they could have would be taken.
    ValueError
        There is no such server.
    """
    names = {member.name: member for member in now.members}
    wanted = list(names) if arguments.server == _ALL else [arguments.server]
    if unknown := [name for name in wanted if name and name not in names]:
        raise ValueError(f"there is no server {unknown[0]}; the hub has {', '.join(names) or 'told of none yet'}")
    plans = []
    for name in wanted:
        member = names.get(name)
        has_gpus = member is None or member.settings is None or member.settings.agent is not None
        if has_gpus and now.waiting and name not in now.drained and not arguments.force:
            who = "1 student waits" if now.waiting == 1 else f"{now.waiting} students wait"
            raise NotNowError(f"{who} for a GPU. Try again later, or take one before them with --force.")
        plans.append(
            Plan(
                name,
                gpus=1 if has_gpus else 0,
                real=not settings.gpus.simulated,
                train=not arguments.no_train,
                start_seconds=settings.spawner.start_timeout_seconds + 60,
            )
        )
    return plans


def place(settings: Settings, arguments: argparse.Namespace) -> Place:
    """Return where the test goes, and with which token."""
    hub = settings.hub
    host = f"[{hub.public_address}]" if ":" in hub.public_address else hub.public_address
    address = (arguments.address or hub.address or hub.subdomain_host or f"http://{host}:{hub.public_port}").rstrip("/")
    own = subdomains.user_origin(hub.subdomain_host, SMOKE_TEST) or address
    trusted = (*authorities(settings), *filter(None, [arguments.ca_file]))
    return Place(SMOKE_TEST, address, own, service_token(hub.state_directory, SMOKER), trusted)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Keep a second test away, whose account would be the same."""
    lock = os.open(settings.hub.state_directory / "smoke.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SmokeError("another smoke test is being made; wait for its end") from None
        yield
    finally:
        os.close(lock)
