"""Runs the admin's program that cuts a server off from the homes, and lets it back."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from io import FileIO
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("idl_hub.fence")
_LONGEST_WORDS = 300
_LAST_BYTES = 65536
_KILL_SECONDS = 5.0
_PASSED_ON = ("HOME", "LANG", "PATH")


class FenceError(Exception):
    """The program did not do it; the message is for admins."""


async def call(
    command: Sequence[str], verb: Literal["fence", "unfence"], server: str, account: str, timeout_seconds: float
) -> None:
    """Run ``COMMAND fence|unfence SERVER ACCOUNT`` and return when it ended with 0.

    Raises
    ------
    FenceError
        It cannot be run, ended with something else, or took too long (and was killed with all it started).
    """
    # No pipe: what the program leaves running may hold its end for ever.
    with FileIO(os.memfd_create("fence"), "w+b") as output:
        status = await _run([*command, verb, server, account], output, timeout_seconds)
        size_bytes = os.fstat(output.fileno()).st_size
        printed = os.pread(output.fileno(), _LAST_BYTES, max(0, size_bytes - _LAST_BYTES))
    words = printed.decode("utf-8", "replace").strip()
    log.info("%s %s %s %s ended with %d: %s", command[0], verb, server, account, status, words)
    if status != 0:
        last = words.splitlines()[-1][:_LONGEST_WORDS] if words else "it printed nothing"
        raise FenceError(f"{command[0]} ended with {status}: {last}")


async def _run(command: Sequence[str], output: FileIO, timeout_seconds: float) -> int:
    """Return the exit status."""
    # Secrets of the hub are in its environment; the program needs none of them.
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise FenceError(f"{command[0]} cannot be run: {error}") from error
    try:
        async with asyncio.timeout(timeout_seconds):
            return await process.wait()
    except BaseException as error:  # also when who waits for it is cancelled
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
        with suppress(TimeoutError):  # what hangs in the kernel, on a dead file server, cannot be killed
            async with asyncio.timeout(_KILL_SECONDS):
                await process.wait()
        if isinstance(error, TimeoutError):
            raise FenceError(f"{command[0]} was not done within {timeout_seconds:g} s") from None
        raise
