"""``idl-hub usage``: GPU hours of each person, and how busy the GPUs were meanwhile."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from idl_hub.db import Reader
from idl_hub.db.tables import LeaseGPURow, LeaseRow
from idl_hub.shell.table import percent, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from idl_hub.settings import Settings


@dataclass(frozen=True, slots=True)
class Usage:
    """What one person had within a time."""

    user: str
    sessions: int
    """With a GPU."""
    gpu_hours: float
    measured_hours: float
    """Of these, how many were covered by readings."""
    utilization_ratio: float | None
    """Mean over the measured hours; None when nothing was measured."""


def usage(since: float, until: float) -> Callable[[Session], tuple[Usage, ...]]:
    """Return the query of everybody's usage between two moments, those with most hours first.

    A session that reaches beyond them counts with the part within; its utilization is that of the whole session.
    """

    def look(session: Session) -> tuple[Usage, ...]:
        query = (
            select(
                LeaseRow.id,
                LeaseRow.user,
                LeaseRow.reserved_at,
                LeaseGPURow.released_at,
                LeaseGPURow.measured_seconds,
                LeaseGPURow.busy_seconds,
            )
            .join(LeaseGPURow, LeaseGPURow.lease_id == LeaseRow.id)
            .where(LeaseRow.reserved_at < until)
            .where(or_(LeaseGPURow.released_at.is_(None), LeaseGPURow.released_at > since))
        )
        held: dict[str, _Sum] = defaultdict(_Sum)
        for lease_id, user, begin, released_at, measured, busy in session.execute(query):
            end = until if released_at is None else released_at
            seconds = min(end, until) - max(begin, since)
            share = seconds / (end - begin) if end > begin else 0.0
            held[user].add(lease_id, seconds, min(measured * share, seconds), busy * share)
        found = [total.usage(user) for user, total in held.items()]
        return tuple(sorted(found, key=lambda one: (-one.gpu_hours, one.user)))

    return look


class _Sum:
    def __init__(self) -> None:
        self._sessions: set[str] = set()
        self._seconds = self._measured = self._busy = 0.0

    def add(self, lease_id: str, seconds: float, measured: float, busy: float) -> None:
        self._sessions.add(lease_id)
        self._seconds += seconds
        self._measured += measured
        self._busy += busy

    def usage(self, user: str) -> Usage:
        ratio = round(min(1.0, self._busy / self._measured), 4) if self._measured > 0 else None
        hours, measured = round(self._seconds / 3600, 3), round(self._measured / 3600, 3)
        return Usage(user, len(self._sessions), hours, measured, ratio)


def _date(text: str) -> float:
    """Return a moment from a date, or a date with a time, in this machine's time zone."""
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        raise ValueError(f"{text!r} is no date; write it like 2026-04-01 or 2026-04-01T08:00") from None


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", required=True, metavar="DATE", help="from when on, such as 2026-04-01")
    parser.add_argument("--until", metavar="DATE", help="until when (now)")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="print comma-separated values for a spreadsheet")
    shape.add_argument("--json", action="store_true", help="print JSON")


def _run(settings: Settings, arguments: argparse.Namespace) -> int:
    since = _date(arguments.since)
    until = min(_date(arguments.until), time.time()) if arguments.until else time.time()
    if until <= since:
        raise ValueError(f"nothing lies between {arguments.since} and {arguments.until or 'now'}; --since comes first")
    with closing(Reader(settings.hub.database_address)) as reader:
        found = [asdict(one) for one in reader.look(usage(since, until))]
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif arguments.csv:
        fields = list(Usage.__dataclass_fields__)
        writer = csv.DictWriter(sys.stdout, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    else:
        heads = ("USER", "SESSIONS", "GPU HOURS", "MEASURED", "LOAD")
        rows = [
            (
                one["user"],
                str(one["sessions"]),
                f"{one['gpu_hours']:.1f}",
                f"{one['measured_hours']:.1f}",
                percent(one["utilization_ratio"]),
            )
            for one in found
        ]
        print(table(heads, rows, right=heads[1:]) if rows else "Nobody had a GPU in that time.")
    return 0


COMMANDS = (("usage", _run, "show everybody's GPU hours, and how busy the GPUs were meanwhile", _add_arguments),)
