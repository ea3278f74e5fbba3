"""What is going on in a start, told to any number of viewers from the beginning."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Progress:
    """A growing list of messages; late viewers get the earlier ones first."""

    def __init__(self) -> None:
        self._events: list[dict[str, int | str]] = []
        self._news = asyncio.Event()
        self._closed = False

    def say(self, percent: int, message: str) -> None:
        """Add a message in plain words and how far the start is, 0 to 99."""
        self._events.append({"progress": percent, "message": message})
        self._wake()

    def close(self) -> None:
        """End the list: viewers return after the last message."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def events(self) -> AsyncIterator[dict[str, int | str]]:
        """Yield every message from the first on, until closed."""
        told = 0
        while True:
            news = self._news
            for event in self._events[told:]:
                told += 1
                yield dict(event)
            if self._closed and told == len(self._events):
                return
            if told == len(self._events):
                await news.wait()
