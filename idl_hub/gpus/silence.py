"""What becomes of a session whose server does not answer, and what its holder may do: pure rules."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FENCED = "fenced"
"""Kind of the mark of a server on which sessions were given up: it gets none before those are gone."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A session that was given up, or is to be, because its server is silent. Times are seconds since 1970."""

    lease_id: str
    server: str
    user: str
    asked_by: str
    called: bool
    """Whether the program that cuts a server off was called, so that it has to be called back."""
    cut_at: float | None = None
    accepted_at: float | None = None
    failure: str | None = None
    stopped_at: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the old session is given up: cut off from the home, or its holder took the risk."""
        return self.cut_at is not None or self.accepted_at is not None


class Stage(StrEnum):
    """How far a session with a silent server is."""

    ANSWERS = "answers"
    """Its server answers: there is nothing to decide."""
    WAIT = "wait"
    """Silent for a short while: most likely it goes on by itself."""
    LOST = "lost"
    """Silent for longer than the grace time: its holder may start elsewhere."""
    CUTTING = "cutting"
    """Its server is being cut off from the home."""
    UNCUT = "uncut"
    """That failed: only who takes the risk may start elsewhere."""
    LETTING_GO = "letting_go"
    """Given up; JupyterHub has not let it go yet."""
    FREE = "free"
    """Given up: a new one may start."""


def stage(silent_since: float | None, fence: Fence | None, grace_seconds: float, now: float) -> Stage:
    """Say how far a session is.

    Parameters
    ----------
    silent_since
        Since when its server does not answer; None when it does.
    fence
        What was done about this session, if anything.
    """
    if fence is not None and fence.holds:
        return Stage.LETTING_GO if fence.stopped_at is None else Stage.FREE
    if silent_since is None:
        return Stage.ANSWERS
    if fence is not None:
        return Stage.CUTTING if fence.failure is None else Stage.UNCUT
    return Stage.WAIT if now < silent_since + grace_seconds else Stage.LOST


def may_lift(fence: Fence, answers: bool, lease_is_live: bool) -> bool:
    """Whether a server may write to the home again: it is back, and what was given up there is gone.

    A session that was not given up after all goes on and needs its home.
    """
    return answers and not (fence.holds and lease_is_live)
