"""Locks between runs: the kernel releases them with the process, so none is ever left behind."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from script.lib.console import SetupError, Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _try(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "unknown"


@contextmanager
def only_server(state: Path) -> Iterator[None]:
    """Hold the lock of a state folder: at most one hub runs on it.

    Raises
    ------
    SetupError
        At once, when another script/server holds it.
    """
    with (state / "server.lock").open("a+") as file:
        if not _try(file):
            raise SetupError(
                f"Another script/server (process {_holder(file)}) already runs on {state}.",
                "Use that one, stop it with Ctrl-C there, or start a second hub with --state and --port of its own.",
            )
        yield


@contextmanager
def only_setup(tools: Path, step: Step, deadline_seconds: float = 1800) -> Iterator[None]:
    """Hold the lock of the checkout's set-up, after waiting for a run that is at it.

    Raises
    ------
    SetupError
        When the other run is not done within the deadline.
    """
    deadline = time.monotonic() + deadline_seconds
    with (tools / "setup.lock").open("a+") as file:
        while not _try(file):
            step.say(f"waiting for the set-up of another run (process {_holder(file)}) to end")
            if time.monotonic() > deadline:
                raise SetupError(
                    f"Another run (process {_holder(file)}) has been setting this checkout up "
                    f"for {deadline_seconds / 60:.0f} minutes.",
                    "Look at what it does; stop it and run this again: it continues where that one was.",
                )
            time.sleep(0.2)  # flock has no deadline of its own
        yield
