"""One pull of an image to one server, which any number of people may wait for and watch."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from docker.errors import APIError, ImageNotFound

from idl_hub.images.progress import Standing, Tally
from idl_hub.spawners.host import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

STALL_SECONDS = 300.0
"""Without a byte or a step for so long a pull is given up. Unpacking a large layer may be quiet for a minute."""
_LOOK_EVERY_SECONDS = 1.0
_TELL_EVERY_SECONDS = 2.0

_CAUSES = (
    ("no space left on device", "its disk is full"),
    ("x509:", "it does not trust the registry's certificate"),
    ("manifest unknown", "the registry does not have it"),
    ("not found", "the registry does not have it"),
    ("pull access denied", "the registry does not have it or does not hand it out"),
    ("connection refused", "the registry does not answer"),
    ("no route to host", "the registry does not answer"),
    ("network is unreachable", "the registry does not answer"),
    ("no such host", "the registry does not answer"),
    ("timeout", "the registry does not answer"),
    ("deadline exceeded", "the registry does not answer"),
    ("Client.Timeout", "the registry does not answer"),
    ("connection reset", "the registry does not answer"),
    ("EOF", "the registry does not answer"),
)
"""What an engine says -> what it means; the first that fits."""


class PullError(Exception):
    """An image did not come.

    Parameters
    ----------
    why
        For anybody, as the end of a sentence.
    detail
        What the engine said, for admins.
    """

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(why)
        self.detail = detail or why


class Server(Protocol):
    """What a pull needs of an engine."""

    name: str

    async def ping(self) -> None:
        """Return when the engine answers, which takes seconds at most; raises `HostError`."""

    async def call(self, method: str, *args: Any, **more: Any) -> Any:
        """Call docker-py."""

    def pull(self, reference: str, silence_seconds: float) -> AsyncGenerator[Mapping[str, Any], None]:
        """Pull, and yield what the engine tells."""


class Pull:
    """Runs in a task of the loop from the moment it is made, whoever stops waiting for it.

    Parameters
    ----------
    reference
        What the engine is asked for.
    sizes
        First digits of a layer's digest -> its packed size in bytes, as far as they are known.
    """

    def __init__(
        self, server: Server, reference: str, sizes: Mapping[str, int], stall_seconds: float = STALL_SECONDS
    ) -> None:
        self.server = server
        self.reference = reference
        self._stall_seconds = stall_seconds
        self._began_at = time.monotonic()
        self._tally = Tally(sizes, self._began_at)
        self.task = asyncio.get_running_loop().create_task(self._run())

    def standing(self) -> Standing:
        """Say how far it is."""
        return self._tally.standing(time.monotonic())

    def summary(self) -> str:
        """Say what it was, once it is done."""
        return f"{self._tally.fetched_bytes / 1e6:.0f} MB in {time.monotonic() - self._began_at:.0f} s"

    async def watch(self) -> AsyncIterator[Standing]:
        """Yield how far it is now and, every two seconds at most, what changed; return when the image is there.

        Raises
        ------
        PullError
            When it does not come.
        """
        told = ""
        while True:
            ended = self.task.done()
            if (standing := self.standing()).words != told:
                told = standing.words
                yield standing
            if ended:
                break
            # A viewer who goes away must not end what others wait for: `wait` leaves the task alone.
            await asyncio.wait({self.task}, timeout=_TELL_EVERY_SECONDS)
        self.task.result()

    async def _run(self) -> None:
        listening = asyncio.create_task(self._listen())
        try:
            while not listening.done():
                await asyncio.wait({listening}, timeout=min(_LOOK_EVERY_SECONDS, self._stall_seconds))
                if not listening.done() and time.monotonic() - self._tally.moved_at > self._stall_seconds:
                    raise PullError(f"nothing came for {self._stall_seconds / 60:.0f} minutes")
            await listening
        finally:
            listening.cancel()  # closes the connection, which has the engine end the pull

    async def _listen(self) -> None:
        try:
            async with aclosing(self.server.pull(self.reference, self._stall_seconds)) as events:
                async for event in events:
                    if "error" in event:
                        raise PullError(meaning(str(event["error"])), str(event["error"]))
                    self._tally.hear(event, time.monotonic())
            # A connection that was cut may look like one that ended.
            await self.server.call("inspect_image", self.reference)
        except ImageNotFound:
            raise PullError("the engine stopped pulling it") from None
        except APIError as error:
            raise PullError(f"the engine refused: {error.explanation or error}") from error
        except HostError as error:
            raise PullError(str(error).rstrip(".")) from error


def meaning(error: str) -> str:
    """Return what an engine's error means, as the end of a sentence; what is not known, in the engine's words."""
    for sign, cause in _CAUSES:
        if sign in error:
            return cause
    return f"the engine says: {error}"
