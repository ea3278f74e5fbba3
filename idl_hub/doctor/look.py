"""What all checks look with: the settings, the tables, and clients that wait for nobody."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from idl_hub.homes.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from idl_hub.doctor.result import Found
    from idl_hub.settings import Settings

Told = TypeVar("Told")

BLOCKING_SECONDS = 8.0
"""How long a file system or a database may take."""
_CLOCK_WARN_SECONDS = 2.0
_CLOCK_PAGE = "clock-off.md"

DEPLOY = "run `ansible-playbook site.yml` again: it renews what is old and repairs what differs"


@dataclass(frozen=True, slots=True)
class Look:
    """One run of the doctor.

    Attributes
    ----------
    address
        The hub as people type it; empty: that is not looked at.
    authorities
        PEM files of who may vouch for that address beside whom this machine trusts.
    textfiles
        Folder in which timers leave what they did, for Prometheus.
    proxy_token
        Of the proxy's own API; empty: it is not asked for its routes.
    """

    settings: Settings
    address: str = ""
    authorities: tuple[Path, ...] = ()
    textfiles: Path | None = None
    proxy_token: str = ""
    _threads: Patience = field(default_factory=lambda: Patience("doctor", 64))

    async def blocking(self, function: Callable[[], Told]) -> Told:
        """Call what may hang in a thread of its own, for at most some seconds; raises `Silent` after that."""
        return await self._threads.call(BLOCKING_SECONDS, function)


def judge_clock(found: Found, headers: Mapping[str, str], most_seconds: float, before: float) -> None:
    """Compare the clock of who answered with this machine's.

    Parameters
    ----------
    headers
        Of an answer; its Date tells whole seconds.
    most_seconds
        From which difference on readings are not believed.
    before
        When the question was sent, seconds since 1970.
    """
    try:
        theirs = parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return
    # Somewhen between question and answer, and within the second that Date names.
    off = 0.0
    if theirs + 1 < before:
        off = theirs + 1 - before
    elif theirs > (after := time.time()):
        off = theirs - after
    apart = f"{abs(off):.0f} s" if abs(off) < 100 else f"{abs(off) / 60:.0f} min"
    words = f"its clock is {apart} {'ahead of' if off > 0 else 'behind'} the hub's"
    advice = "on both machines: `timedatectl`, `chronyc tracking`; start chrony again"
    if abs(off) >= most_seconds:
        found.fail(f"{words}: tokens, certificates and times in lists go wrong", advice, _CLOCK_PAGE)
    elif abs(off) > _CLOCK_WARN_SECONDS:
        found.warn(words, advice, _CLOCK_PAGE)
