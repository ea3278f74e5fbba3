"""``idl-hub doctor``."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idl_hub import settings as settings_module
from idl_hub.doctor import certificates, report
from idl_hub.doctor.examine import CHECKS, examine
from idl_hub.doctor.look import Look
from idl_hub.doctor.result import Problem, Result, State, worst
from idl_hub.settings import SettingsError

if TYPE_CHECKING:
    import argparse

_STATUS = {State.OK: 0, State.FAILED: 1, State.WARNING: 3}
_TEXTFILES = Path("/var/lib/prometheus/node-exporter")
"""Where Debian's node exporter looks for what timers leave."""
_PROXY_TOKEN = "CONFIGPROXY_AUTH_TOKEN"  # noqa: S105 - the variable's name
_PROXY_ENVIRONMENT = Path("/etc/idl_hub/proxy.env")
"""Where the deployment keeps that variable; the command is not told it otherwise."""


def add_commands(subparsers: Any) -> None:
    """Add the command ``doctor``."""
    text = "look at every part from the outside, and say what is wrong and what to do"
    parser = subparsers.add_parser(
        "doctor",
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog="Checks: " + "; ".join(f"{name}: {what}" for name, what in CHECKS.items()) + ".",
    )
    parser.add_argument("--address", metavar="URL", help="the hub as people type it (hub.address)")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="who vouches for that address beside the usual")
    parser.add_argument(
        "--only", action="append", choices=CHECKS, metavar="CHECK", default=[], help="only this check; may be repeated"
    )
    parser.add_argument("--textfiles", type=Path, metavar="DIR", help=f"what timers left for Prometheus ({_TEXTFILES})")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="write the outcome for Prometheus into this file")
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    parts = logging.getLogger("idl_hub")
    level = parts.level
    parts.setLevel(logging.CRITICAL)  # what they would say stands in the report
    try:
        return _report(arguments)
    finally:
        parts.setLevel(level)


def _report(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    try:
        settings = settings_module.load(settings_module.files_from_environment())
    except SettingsError as error:
        advice = "mend what is named; `idl-hub settings check` says whether that was all"
        problem = Problem(State.FAILED, str(error), advice, "hub-does-not-start.md")
        results = [Result("settings", "hub", problems=(problem,))]
    else:
        textfiles = arguments.textfiles or (_TEXTFILES if _TEXTFILES.is_dir() else None)
        address = arguments.address or settings.hub.address or settings.hub.subdomain_host
        authorities = (*certificates.authorities(settings), *filter(None, [arguments.ca_file]))
        look = Look(settings, address, authorities, textfiles, _proxy_token())
        results = asyncio.run(examine(look, frozenset(arguments.only)))
    seconds, now = time.monotonic() - began, time.time()
    if arguments.json:
        print(report.as_json(results, seconds, now))
    else:
        print(report.as_text(results, seconds, coloured=sys.stdout.isatty()))
    if arguments.metrics:
        try:
            report.write(arguments.metrics, report.as_metrics(results, now))
        except OSError as error:
            print(f"idl-hub doctor: {arguments.metrics} cannot be written: {error}", file=sys.stderr)
            return 1
    return _STATUS[worst(result.state for result in results)]


def _proxy_token() -> str:
    if given := os.environ.get(_PROXY_TOKEN):
        return given
    with suppress(OSError):
        for line in _PROXY_ENVIRONMENT.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == _PROXY_TOKEN:
                return value.strip().strip("'\"")
    return ""
