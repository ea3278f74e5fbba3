"""Calls that may hang: a file server that is gone holds whoever asks it, in the kernel, until it is back."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


class Silent(Exception):  # noqa: N818 - nothing was done wrong
    """No answer in time; the call goes on."""


class Patience:
    """Runs calls in threads of its own, a limited number at the same time, and waits no longer than it was told.

    A thread that hangs keeps its place until its call returns, so a dead file server costs this many threads and no
    more; when it is back, the places are free again. Such threads do not hold up the end of the process.
    """

    def __init__(self, name: str, places: int) -> None:
        self._name = name
        self._free = asyncio.Semaphore(places)
        self.under_way = 0
        """Calls that have not returned."""

    async def call(
        self, seconds: float, function: Callable[Asked, Answer], *args: Asked.args, **kwargs: Asked.kwargs
    ) -> Answer:
        """Call a function in a thread and return its result, or raise what it raised.

        Raises
        ------
        Silent
            There was no answer within this time; what the function returns later is lost.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def run() -> None:
            try:
                result = function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - handed to who called
                _tell(loop, self._returned, answer, error, None)
            else:
                _tell(loop, self._returned, answer, None, result)

        try:
            async with asyncio.timeout(seconds):
                await self._free.acquire()
                self.under_way += 1
                threading.Thread(target=run, name=self._name, daemon=True).start()
                return await answer
        except TimeoutError:
            if answer.done() and not answer.cancelled():
                raise  # the function's own
            raise Silent(f"{self._name}: no answer within {seconds:g} s") from None

    def _returned(self, answer: asyncio.Future[Answer], error: BaseException | None, result: Answer) -> None:
        self.under_way -= 1
        self._free.release()
        if answer.cancelled():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)


def _tell(loop: asyncio.AbstractEventLoop, *call: object) -> None:
    function, *args = call
    try:
        loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]
    except RuntimeError:
        return  # the loop has ended meanwhile; nobody waits
