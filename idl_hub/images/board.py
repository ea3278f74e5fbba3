"""A line for each server that is rewritten as things go on; plain lines where nobody watches."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

_LOG_EVERY_SECONDS = 10.0


class Board:
    """Names with what is going on at each.

    Parameters
    ----------
    out
        A terminal shows all lines at once, each rewritten in place. Anything else gets a line when something
        begins or ends, and every ten seconds in between.
    """

    def __init__(self, names: Iterable[str], out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._words = dict.fromkeys(names, "")
        self._width = max((len(name) for name in self._words), default=0)
        self._drawn = False
        self._written_at: dict[str, float] = {}

    def tell(self, name: str, words: str, *, last: bool = False) -> None:
        """Say what is going on at `name`; `last` when it is the outcome."""
        self._words[name] = words
        if self._out.isatty():
            self._draw()
            return
        now = time.monotonic()
        if last or now - self._written_at.get(name, -_LOG_EVERY_SECONDS) >= _LOG_EVERY_SECONDS:
            self._written_at[name] = now
            print(self._line(name), file=self._out, flush=True)

    def _draw(self) -> None:
        up = f"\x1b[{len(self._words)}A" if self._drawn else ""
        columns = shutil.get_terminal_size().columns
        # A line that the terminal wraps would put the others out of place.
        lines = "".join(f"{self._line(name)[: columns - 1]}\x1b[K\n" for name in self._words)
        self._out.write(up + lines)
        self._out.flush()
        self._drawn = True

    def _line(self, name: str) -> str:
        return f"{name.ljust(self._width)}  {self._words[name]}"
