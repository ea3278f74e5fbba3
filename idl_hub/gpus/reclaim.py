"""When a session's GPU comes back: one pure rule over idle time, session length and whether others wait.

Training is never stopped for being idle, browser open or not: a GPU that computes is not idle. The longest
allowed session ends training too, after warnings.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from idl_hub.settings import Settings


class Action(StrEnum):
    """What is to be done with a session now."""

    LEAVE = "leave"
    WARN = "warn"
    UNWARN = "unwarn"
    STOP_IDLE = "stop: idle"
    STOP_LENGTH = "stop: longest session"


@dataclass(frozen=True, slots=True)
class Policy:
    """How long is long; all in seconds. None: no limit."""

    idle_while_others_wait_seconds: float = 20 * 60
    idle_alone_seconds: float | None = 8 * 3600
    warning_seconds: float = 10 * 60
    longest_seconds: float | None = 24 * 3600
    extension_seconds: float = 12 * 3600


def policy_from(settings: Settings) -> Policy:
    """Return the settings of sessions as the rule reads them."""
    sessions = settings.sessions
    return Policy(
        idle_while_others_wait_seconds=sessions.idle_minutes_while_others_wait * 60,
        idle_alone_seconds=None if sessions.idle_minutes is None else sessions.idle_minutes * 60,
        warning_seconds=sessions.idle_warning_minutes * 60,
        longest_seconds=None if sessions.longest_hours is None else sessions.longest_hours * 3600,
        extension_seconds=sessions.extension_hours * 3600,
    )


@dataclass(frozen=True, slots=True)
class Session:
    """What the rule needs to know of a session. Moments are seconds since 1970.

    `idle_since` is None while the GPU's idleness is unknown; `ends_at` None without a limit; `warned_at` and
    `kept_at` as in the table of leases.
    """

    idle_since: float | None
    ends_at: float | None
    warned_at: float | None
    kept_at: float | None
    end_message: str | None = None
    """Why a person ends the session at `ends_at`."""


class Held(Protocol):
    """A lease as its table has it, whoever read it."""

    @property
    def ready_at(self) -> float | None: ...  # noqa: D102 - as in the table of leases
    @property
    def ends_at(self) -> float | None: ...  # noqa: D102
    @property
    def warned_at(self) -> float | None: ...  # noqa: D102
    @property
    def kept_at(self) -> float | None: ...  # noqa: D102
    @property
    def end_message(self) -> str | None: ...  # noqa: D102


def session_of(lease: Held, idle_since: float | None) -> Session:
    """Return what the rule needs to know of a lease whose GPUs are idle since then; None: not known."""
    if idle_since is not None and lease.ready_at is not None:
        idle_since = max(idle_since, lease.ready_at)  # what was before is not this session's idleness
    return Session(idle_since, lease.ends_at, lease.warned_at, lease.kept_at, lease.end_message)


@dataclass(frozen=True, slots=True)
class Notice:
    """What the holder of a session should read now; `kind` is idle, length, or ending (a person ends it)."""

    kind: str
    text: str
    deadline: float
    can_keep: bool


def decide(session: Session, policy: Policy, now: float, *, others_wait: bool) -> Action:
    """Say what is to be done with a session that holds a GPU."""
    if session.ends_at is not None and now >= session.ends_at:
        return Action.STOP_LENGTH
    if not _is_idle_too_long(session, policy, now, others_wait=others_wait):
        return Action.LEAVE if session.warned_at is None else Action.UNWARN
    if session.warned_at is None:
        return Action.WARN
    return Action.STOP_IDLE if now >= session.warned_at + policy.warning_seconds else Action.LEAVE


def _is_idle_too_long(session: Session, policy: Policy, now: float, *, others_wait: bool) -> bool:
    allowed = policy.idle_while_others_wait_seconds if others_wait else policy.idle_alone_seconds
    if session.idle_since is None or allowed is None:
        return False
    since = max(session.idle_since, session.kept_at or 0)
    # From the moment of the warning on the decision stands until the GPU is used or kept, or nobody waits any more.
    return now - since >= allowed


def idle_ends_at(session: Session, policy: Policy) -> float | None:
    """Return when an idle session's GPU comes back while others wait; None when its idleness is unknown."""
    if session.idle_since is None:
        return None
    since = max(session.idle_since, session.kept_at or 0)
    at = since + policy.idle_while_others_wait_seconds + policy.warning_seconds
    return at if session.warned_at is None else session.warned_at + policy.warning_seconds


def notice(session: Session, policy: Policy, now: float, *, others_wait: bool) -> Notice | None:
    """Return what the holder should read now: the idle warning, or that the longest session ends soon."""
    if session.end_message is not None and session.ends_at is not None:
        return Notice("ending", session.end_message, session.ends_at, False)
    if session.warned_at is not None:
        return Notice(
            "idle",
            "Your GPU has been idle for a while and others wait for one."
            if others_wait
            else "Your GPU has been idle for a long time.",
            session.warned_at + policy.warning_seconds,
            session.kept_at is None,
        )
    if session.ends_at is not None and session.ends_at - now <= LENGTH_WARNINGS_SECONDS[0]:
        return Notice("length", "The longest time for a session is nearly over.", session.ends_at, not others_wait)
    return None


LENGTH_WARNINGS_SECONDS = (3600, 600)
"""How long before a session's end its holder is warned."""
