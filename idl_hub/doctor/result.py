"""What a look at one part found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Students notice nothing yet."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong."""

    state: State
    text: str
    """What is wrong, and what that means."""
    advice: str
    """What to do."""
    page: str = ""
    """File in ``docs/runbook`` that says more."""


@dataclass(slots=True)
class Found:
    """What a check fills in while it looks."""

    facts: list[str] = field(default_factory=list)
    """What is well, in a few words each."""
    problems: list[Problem] = field(default_factory=list)
    certificates: dict[str, float] = field(default_factory=dict)
    """Whose certificate -> until when it is valid, seconds since 1970."""
    versions: dict[str, str] = field(default_factory=dict)
    """What should be alike on all servers -> what it is here."""

    def warn(self, text: str, advice: str, page: str = "") -> None:
        """Add a problem that nobody notices yet."""
        self.problems.append(Problem(State.WARNING, text, advice, page))

    def fail(self, text: str, advice: str, page: str = "") -> None:
        """Add a problem."""
        self.problems.append(Problem(State.FAILED, text, advice, page))


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report: a check of one part."""

    check: str
    target: str
    facts: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    certificates: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def state(self) -> State:
        """The worst of its problems."""
        return worst(problem.state for problem in self.problems)


def worst(states: Iterable[State]) -> State:
    """Return the worst of these states; all is well when there are none."""
    found = set(states)
    return next((state for state in (State.FAILED, State.WARNING) if state in found), State.OK)
