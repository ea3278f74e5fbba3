"""Running other programs: output to a log, the last line to the live line, failures with their cause."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from script.lib.console import SetupError, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

_NO_SPACE = re.compile(r"No space left on device|ENOSPC|not enough free (disk )?space", re.IGNORECASE)
_NO_DOWNLOAD = re.compile(
    r"Could not resolve|Temporary failure (in name )?resol|Name or service not known|Network is unreachable"
    r"|Max retries exceeded|Connection (refused|timed out|reset|aborted)|Read timed out|ETIMEDOUT|ENOTFOUND"
    r"|EAI_AGAIN|ECONNREFUSED|ECONNRESET|CERTIFICATE_VERIFY_FAILED|UNABLE_TO_GET_ISSUER|Failed to fetch"
    r"|Unable to locate package|no installation candidate|No matching distribution|ProxyError|NewConnectionError",
    re.IGNORECASE,
)


class CommandFailedError(Exception):
    """A program ended with an error or did not end in time; ``tail`` holds the last lines it printed."""

    def __init__(self, command: Sequence[str], reason: str, tail: str) -> None:
        super().__init__(f"{Path(command[0]).name} {reason}")
        self.tail = tail


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent dies; run between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def _kill_quickly() -> None:
    end_with_parent(signal.SIGKILL)


def run(
    step: Step,
    command: Sequence[str],
    log: Path,
    *,
    deadline_seconds: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end and return its last lines; the step's live line follows its output.

    Raises
    ------
    CommandFailedError
        When it ended with an error, or was stopped at the deadline.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n$ {' '.join(command)}\n")
        file.flush()
        process = _start(command, cwd, env)
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(deadline_seconds, stop)
        timer.start()
        try:
            for line in process.stdout or ():
                file.write(line)
                step.say(line)
                if line.strip():
                    tail.append(line.rstrip())
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            timer.cancel()
    if late.is_set():
        raise CommandFailedError(command, f"did not end within {deadline_seconds:.0f} s", "\n".join(tail))
    if code != 0:
        raise CommandFailedError(command, f"ended with {code}", "\n".join(tail))
    return "\n".join(tail)


def _start(command: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            preexec_fn=_kill_quickly,  # noqa: PLW1509 - only one system call between fork and exec
        )
    except OSError as error:
        raise CommandFailedError(command, f"could not be started: {error.strerror}", "") from error


def ask(command: Sequence[str], deadline_seconds: float = 20) -> subprocess.CompletedProcess[str] | None:
    """Run a short program quietly; None when it is missing or does not answer in time."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=deadline_seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def explain(what: str, failure: CommandFailedError, log: Path, otherwise: str) -> SetupError:
    """Turn a failed program into a message with its cause and the remedy.

    Parameters
    ----------
    what
        What was tried, such as "The hub's packages could not be installed".
    otherwise
        The remedy when the cause is neither a full disk nor a failed download.
    """
    again = "Run the same command again; it continues where it stopped."
    if _NO_SPACE.search(failure.tail):
        return SetupError(f"{what}: no disk space is left.", f"Free some space (df -h). {again}", failure.tail)
    if _NO_DOWNLOAD.search(failure.tail):
        return SetupError(
            f"{what}: a download failed.",
            "Check that this machine reaches the internet or its package mirror (proxy and CA settings "
            f"are taken from the environment and the configuration of pip, npm and apt). {again}",
            failure.tail,
        )
    return SetupError(f"{what}: {failure}.", f"{otherwise} The whole output stands in {log}.", failure.tail)


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with changes."""
    return {**os.environ, **changes}
