"""What a person sees: each step with the time it took, and a live line while a long one runs."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIVE_SECONDS = 0.5
_LINE_SECONDS = 15.0
_TITLE_WIDTH = 24
_NOTE_WIDTH = 60


class SetupError(Exception):
    """A step cannot be done.

    Parameters
    ----------
    what
        What happened, in a sentence a person understands.
    remedy
        What to do next.
    detail
        The last lines of the program that failed, when there was one.
    """

    def __init__(self, what: str, remedy: str, detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.detail = detail

    def text(self) -> str:
        """Return the whole message as it is printed."""
        parts = [f"FAILED: {self.what}"]
        if self.detail:
            parts.append("\n".join(f"    | {line}" for line in self.detail.splitlines()))
        parts.append(f"What to do: {self.remedy}")
        return "\n".join(parts)


class Step:
    """One step while it runs; ``note`` is what stands behind its title when it is done."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.note = ""
        self.status = ""
        self.started = time.monotonic()

    def elapsed_seconds(self) -> float:
        """Return the seconds since the step began."""
        return time.monotonic() - self.started

    def say(self, status: str) -> None:
        """Set what the live line shows; the last line of a program's output, usually."""
        status = status.strip()
        if status:
            self.status = "".join(letter for letter in status if letter.isprintable())


class Console:
    """Prints steps to a stream: in place on a terminal, else a line now and then."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._started = time.monotonic()

    def elapsed_seconds(self) -> float:
        """Return the seconds since this program began."""
        return time.monotonic() - self._started

    def line(self, text: str = "") -> None:
        """Print a line of its own, at once."""
        print(text, file=self._stream, flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step: its live line while the body runs, then its note and the time it took."""
        step = Step(title)
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(step, done), daemon=True)
        ticker.start()
        outcome = "stop"
        try:
            yield step
            outcome = "ok"
        except SetupError:
            outcome = "FAIL"
            raise
        finally:
            done.set()
            ticker.join()
            self._clear()
            self.line(
                f"[{outcome:^4}] {title:<{_TITLE_WIDTH}} {step.note:<{_NOTE_WIDTH}} {step.elapsed_seconds():6.1f} s"
            )

    def _tick(self, step: Step, done: threading.Event) -> None:
        while not done.wait(_LIVE_SECONDS if self._live else _LINE_SECONDS):
            text = f"       {step.title}: {step.elapsed_seconds():.0f} s  {step.status}"
            if self._live:
                self._clear()
                width = shutil.get_terminal_size().columns - 1
                print(text[:width], end="", file=self._stream, flush=True)
            else:
                self.line(text[:160])

    def _clear(self) -> None:
        if self._live:
            print("\r\033[K", end="", file=self._stream, flush=True)
