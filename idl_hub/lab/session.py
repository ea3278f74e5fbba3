"""What the hub says of this server's session, made of JSON that may be anything."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SAME_CLOCK_SECONDS = 5.0
"""What an answer may take on its way: a smaller difference is no other clock, and countdowns would jump by it."""


@dataclass(frozen=True, slots=True)
class Use:
    """A process and how much of a GPU's memory it holds."""

    pid: int
    """As seen in this server."""
    memory_used_bytes: int | None = None
    """None: nobody can tell."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU of the session as the browser shows it; None where nobody tells."""

    uuid: str
    index: int | None = None
    """Its number on its server; inside a container all counting starts at 0."""
    name: str | None = None
    utilization_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """The hub is about to stop this server."""

    kind: str
    """``idle`` (its GPU is idle and others wait) or ``length`` (the longest session is over)."""
    text: str
    deadline: float
    can_keep: bool


@dataclass(frozen=True, slots=True)
class Session:
    """The session of this server. Times are seconds since 1970 by this server's clock."""

    server: str = ""
    started_at: float | None = None
    idle_seconds: float | None = None
    ends_at: float | None = None
    can_extend: bool = False
    cards: tuple[Card, ...] = ()
    uses: tuple[Use, ...] | None = None
    """Who holds the GPUs' memory; None: the hub does not tell."""
    notice: Notice | None = None


def parse(answer: Mapping[str, Any], now: float) -> Session | None:
    """Return the session in an answer to ``api/me``; None when there is none.

    Parameters
    ----------
    answer
        The decoded JSON. What has a wrong type is left out.
    now
        This server's clock at the time of the answer. The hub's may differ: its times are moved by the difference.
    """
    session = answer.get("session")
    if not isinstance(session, dict):
        return None
    hub_now = _number(answer.get("now"))
    ahead = 0.0 if hub_now is None or abs(now - hub_now) < SAME_CLOCK_SECONDS else now - hub_now
    gpus = [gpu for gpu in _list(session.get("gpus")) if isinstance(gpu, dict) and isinstance(gpu.get("uuid"), str)]
    return Session(
        server=_text(session.get("server")) or "",
        started_at=_moved(session.get("started_at"), ahead),
        idle_seconds=_number(session.get("idle_seconds")),
        ends_at=_moved(session.get("ends_at"), ahead),
        can_extend=session.get("can_extend") is True,
        cards=tuple(_card(gpu) for gpu in gpus),
        uses=_uses(gpus),
        notice=_notice(session.get("notice"), ahead),
    )


def without_notice(session: Session | None) -> Session | None:
    """Return what is left of a session when the hub has gone silent: nothing that may have changed by now."""
    if session is None:
        return None
    return replace(session, idle_seconds=None, can_extend=False, uses=None, notice=None)


def _card(gpu: Mapping[str, Any]) -> Card:
    return Card(
        uuid=gpu["uuid"],
        index=_whole(gpu.get("index")),
        name=_text(gpu.get("name")),
        utilization_ratio=_number(gpu.get("utilization_ratio")),
        memory_used_bytes=_whole(gpu.get("memory_used_bytes")),
        memory_total_bytes=_whole(gpu.get("memory_total_bytes")),
        temperature_celsius=_whole(gpu.get("temperature_celsius")),
    )


def _uses(gpus: list[dict[str, Any]]) -> tuple[Use, ...] | None:
    told = [gpu["processes"] for gpu in gpus if isinstance(gpu.get("processes"), list)]
    if not told:
        return None
    processes = [process for processes in told for process in processes if isinstance(process, dict)]
    pids = [(_whole(process.get("pid_in_container")), process) for process in processes]
    return tuple(Use(pid, _whole(process.get("memory_used_bytes"))) for pid, process in pids if pid is not None)


def _notice(value: object, ahead: float) -> Notice | None:
    if not isinstance(value, dict):
        return None
    kind, deadline = _text(value.get("kind")), _moved(value.get("deadline"), ahead)
    if kind is None or deadline is None:
        return None
    return Notice(kind, _text(value.get("text")) or "", deadline, value.get("can_keep") is True)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _moved(value: object, seconds: float) -> float | None:
    number = _number(value)
    return None if number is None else number + seconds


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None or number < 0 else int(number)
