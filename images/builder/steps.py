"""Running long commands so that a person sees what goes on and how long it takes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .failure import ImageError, explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

REDRAW_SECONDS = 0.5  # the live line on a terminal
REPORT_SECONDS = 15.0  # a line each, where the output is no terminal
KEPT_LINES = 2000


@dataclass(frozen=True)
class Reporter:
    """Tells a person about steps; says nothing but failures when ``quiet``."""

    quiet: bool = False

    def say(self, line: str) -> None:
        """Print one line."""
        if not self.quiet:
            print(line, flush=True)

    def done(self, what: str, seconds: float) -> None:
        """Report a finished step with the time it took."""
        self._clear()
        self.say(f"  {what}: done in {seconds:.1f} s")

    def running(self, what: str, seconds: float, last_line: str) -> None:
        """Report a step that goes on; on a terminal in place."""
        if self.quiet:
            return
        line = f"  {what}: {seconds:.0f} s  {last_line}"
        if not sys.stdout.isatty():
            print(line[:160], flush=True)
            return
        width = shutil.get_terminal_size().columns
        print(f"\r\033[K{line[: width - 1]}", end="", flush=True)

    def _clear(self) -> None:
        if not self.quiet and sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)


def run_step(
    reporter: Reporter,
    what: str,
    command: Sequence[str],
    *,
    deadline_seconds: float,
    given: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command as a step and return what it wrote to stdout and stderr.

    Parameters
    ----------
    what
        The step in a few words; stands before the time and in the error.
    deadline_seconds
        The command is ended after this time.
    given
        Written to the command's standard input.

    Raises
    ------
    ImageError
        The command failed or ran out of time; the message names cause and remedy.
    """
    started = time.monotonic()
    interval = REDRAW_SECONDS if sys.stdout.isatty() else REPORT_SECONDS
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    )
    threads = [
        threading.Thread(target=_feed, args=(process.stdin, given), daemon=True),
        threading.Thread(target=_collect, args=(process.stdout, lines), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        while True:
            elapsed = time.monotonic() - started
            if elapsed > deadline_seconds:
                raise ImageError(
                    f"{what}: not finished after {deadline_seconds:.0f} s and given up; the last line was:\n"
                    f"    {_last(lines)}\nIs the network very slow? Running this again goes on after the last step."
                )
            try:
                code = process.wait(min(interval, deadline_seconds - elapsed + 0.1))
                break
            except subprocess.TimeoutExpired:
                reporter.running(what, time.monotonic() - started, _last(lines))
    finally:
        _end(process)
    for thread in threads:
        thread.join(timeout=5)
    output = "\n".join(lines)
    if code:
        raise explain(what, output)
    reporter.done(what, time.monotonic() - started)
    return output


def _feed(stdin: IO[bytes], given: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # a command that ended early says why in its status
        stdin.write(given)
        stdin.close()


def _collect(stdout: IO[bytes], lines: deque[str]) -> None:
    for raw in stdout:
        line = raw.decode(errors="replace").strip()
        if line and not line.startswith(("--->", "Removing intermediate container")):
            lines.append(line)


def _last(lines: deque[str]) -> str:
    return lines[-1] if lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that still runs (interrupted or out of time), so that none is left behind."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
