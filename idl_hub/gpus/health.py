"""Which GPUs are sick beyond the moment: what heals by itself after a quiet time, and what only an admin ends.

A GPU that was lost or reported an XID of the hardware may answer again within seconds and fail under
the next student; so it stays out until somebody has looked. Heat, a hang or a reloaded driver are over
when they are over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idl_hub.gpus.reading import HealthState

if TYPE_CHECKING:
    from idl_hub.gpus.reading import GPU, Xid

# Numbers and meanings: NVIDIA, "XID Errors".
SICK_XIDS = {
    48: "a memory error that could not be corrected",
    62: "its power controller halted",
    64: "retiring broken memory failed",
    74: "an NVLink error",
    79: "it fell off the bus",
    95: "a memory error that was not contained",
    119: "its firmware does not answer",
    120: "its firmware failed",
}
"""Of the hardware or its firmware."""
PROGRAM_XIDS = {
    13: "a program used the GPU wrongly",
    31: "a program used memory that is not its own",
    43: "a program was stopped after an error of its own",
}
"""Of a program that ran on it; the GPU is well."""
_CLEARED_MARGIN_SECONDS = 2.0
"""The times of an agent's XIDs vary by as much as its answers take."""


@dataclass(frozen=True, slots=True)
class HealthRules:
    """When a GPU that answers is left out all the same."""

    temperature_limit_celsius: float = 90
    temperature_hysteresis_celsius: float = 5
    """It has cooled down when it is as much below the limit."""
    quiet_seconds: float = 60
    """How long all must be well before a cause that heals is over."""
    most_failures: int = 3
    """A GPU that failed so often within `failures_seconds` stays out until as long has passed without failure."""
    failures_seconds: float = 600


class HealthMemory:
    """The health of one GPU over time. Times are seconds since the epoch, by the hub's clock."""

    def __init__(self, rules: HealthRules) -> None:
        self._rules = rules
        self._lost_at: float | None = None
        self._sick_xid: Xid | None = None
        self._program_xid: Xid | None = None
        self._cleared_at = 0.0
        self._hot = False
        self._hot_at: float | None = None
        self._failing = False
        self._failed_at: float | None = None
        self._failed_words = ""
        self._failures: deque[float] = deque(maxlen=max(1, rules.most_failures))
        self._now = 0.0

    def follow(self, gpu: GPU, at: float) -> None:
        """Take in a reading."""
        self._now = at
        self._follow_answers(gpu, at)
        self._follow_temperature(gpu, at)
        for xid in gpu.xids:
            if xid.code in SICK_XIDS and xid.at > self._cleared_at + _CLEARED_MARGIN_SECONDS:
                self._sick_xid = xid
            elif xid.code not in SICK_XIDS:
                self._program_xid = xid

    def clear(self, at: float) -> None:
        """Forget what only an admin can end, as far as it happened before; an earlier time changes nothing."""
        if at <= self._cleared_at:
            return
        self._cleared_at = at
        if self._lost_at is not None and self._lost_at <= at:
            self._lost_at = None
        if self._sick_xid is not None and self._sick_xid.at <= at + _CLEARED_MARGIN_SECONDS:
            self._sick_xid = None

    @property
    def needs_admin(self) -> str:
        """Why an admin must look before this GPU is given out again; empty when none must."""
        if self._sick_xid is not None:
            code = self._sick_xid.code
            return f"the driver reported XID {code}: {SICK_XIDS[code]}"
        return "it was lost: it fell off the bus, or the driver no longer lists it" if self._lost_at is not None else ""

    @property
    def sick(self) -> str:
        """Why this GPU is left out although it may answer now; empty when it need not be."""
        return self.needs_admin or self._heat() or self._failing_lately()

    @property
    def note(self) -> str:
        """What is worth knowing of a GPU that is well: the last error of a program on it; empty for nothing."""
        if self._program_xid is None:
            return ""
        code = self._program_xid.code
        return f"XID {code}: {PROGRAM_XIDS.get(code, 'see the list of XIDs of NVIDIA')}"

    def _follow_answers(self, gpu: GPU, at: float) -> None:
        failing = not gpu.health.ok
        if gpu.health.state is HealthState.LOST:
            self._lost_at = at
        if failing:
            if not self._failing:
                self._failures.append(at)
            self._failed_at, self._failed_words = at, gpu.health.words or gpu.health.state.value
        self._failing = failing

    def _follow_temperature(self, gpu: GPU, at: float) -> None:
        celsius = gpu.temperature_celsius
        if celsius is None:
            return
        limit = self._rules.temperature_limit_celsius
        self._hot = celsius >= limit or (self._hot and celsius > limit - self._rules.temperature_hysteresis_celsius)
        if self._hot:
            self._hot_at = at

    def _heat(self) -> str:
        limit = self._rules.temperature_limit_celsius
        if self._hot:
            return f"too hot: it reached the limit of {limit:g} °C and has not cooled down yet"
        if self._hot_at is not None and self._now - self._hot_at < self._rules.quiet_seconds:
            return f"it was too hot (limit {limit:g} °C) {self._now - self._hot_at:.0f} s ago"
        return ""

    def _failing_lately(self) -> str:
        if self._failed_at is None:
            return ""
        quiet_seconds = self._now - self._failed_at
        rules = self._rules
        often = (
            len(self._failures) == rules.most_failures
            and self._failures[-1] - self._failures[0] <= rules.failures_seconds
        )
        if often and quiet_seconds < rules.failures_seconds:
            return f"it failed {rules.most_failures} times in a short time, last: {self._failed_words}"
        if quiet_seconds < rules.quiet_seconds:
            return f"it did not answer rightly {quiet_seconds:.0f} s ago: {self._failed_words}"
        return ""
