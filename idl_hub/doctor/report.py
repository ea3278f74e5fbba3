"""The doctor's report: for people, as JSON, for Prometheus."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from idl_hub.doctor.result import State, worst

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from idl_hub.doctor.result import Result

VERSION = 1
"""Of the JSON's form."""
_COLOURS = {State.OK: "32", State.WARNING: "33", State.FAILED: "31;1"}


def as_text(results: Sequence[Result], seconds: float, *, coloured: bool = False) -> str:
    """Return a line for each check, below it what to do about its problems, and a sum."""
    checks = max((len(result.check) for result in results), default=0)
    targets = min(24, max((len(result.target) for result in results), default=0))
    lines = []
    for result in results:
        head = f"{result.check.ljust(checks)}  {result.target.ljust(targets)}"
        if not result.problems:
            lines.append(f"{_mark(State.OK, coloured)}  {head}  {'; '.join(result.facts)}")
        for problem in result.problems:
            lines.append(f"{_mark(problem.state, coloured)}  {head}  {problem.text}")
            page = f" (docs/runbook/{problem.page})" if problem.page else ""
            lines.append(f"{' ' * 9}-> {problem.advice}{page}")
    return "\n".join([*lines, "", _sum(results, seconds)])


def _mark(state: State, coloured: bool) -> str:
    word = (state.value.upper() if state is State.FAILED else state.value).ljust(7)
    return f"\x1b[{_COLOURS[state]}m{word}\x1b[0m" if coloured else word


def _sum(results: Sequence[Result], seconds: float) -> str:
    states = [result.state for result in results]
    failed, warned = states.count(State.FAILED), states.count(State.WARNING)
    if not failed and not warned:
        return f"{len(results)} checks in {seconds:.1f} s: all is well."
    return f"{len(results)} checks in {seconds:.1f} s: {failed} failed, {warned} with warnings."


def as_json(results: Sequence[Result], seconds: float, now: float) -> str:
    """Return the report as JSON; its form is described in ``docs/reference/commands.md``."""
    report: dict[str, Any] = {
        "version": VERSION,
        "checked_at": now,
        "seconds": round(seconds, 3),
        "state": worst(result.state for result in results).value,
        "checks": [
            {
                "check": result.check,
                "target": result.target,
                "state": result.state.value,
                "facts": list(result.facts),
                "problems": [
                    {
                        "state": problem.state.value,
                        "text": problem.text,
                        "advice": problem.advice,
                        "page": f"docs/runbook/{problem.page}" if problem.page else None,
                    }
                    for problem in result.problems
                ],
                "certificates": result.certificates,
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
    }
    return json.dumps(report, indent=2)


def as_metrics(results: Sequence[Result], now: float) -> bytes:
    """Return the report in Prometheus' text form."""
    registry = CollectorRegistry()
    labels = ("check", "target")
    passed = Gauge("idlhub_doctor_check", "1 unless the check of this part failed.", labels, registry=registry)
    warned = Gauge("idlhub_doctor_warning", "1 when the check of this part warns.", labels, registry=registry)
    ends = Gauge(
        "idlhub_certificate_expiry_timestamp_seconds", "When a certificate ends.", ("target",), registry=registry
    )
    at = Gauge("idlhub_doctor_last_run_timestamp_seconds", "When `idl-hub doctor` last looked.", registry=registry)
    for result in results:
        passed.labels(result.check, result.target).set(result.state is not State.FAILED)
        warned.labels(result.check, result.target).set(result.state is State.WARNING)
        for whose, until in result.certificates.items():
            ends.labels(whose).set(until)
    at.set(now)
    return generate_latest(registry)


def write(path: Path, content: bytes) -> None:
    """Put a file in the place of another at once, so that nobody reads half of it.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as target:
            os.fchmod(target.fileno(), 0o644)  # the node exporter is somebody else
            target.write(content)
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
