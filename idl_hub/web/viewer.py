"""Somebody who watches: what they see, and what waits to be sent to them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

_MOST_WAITING = 30


class Viewer:
    """One open connection of server-sent events.

    Parameters
    ----------
    sees_all
        Whether the whole map is theirs to see, or only what concerns them.
    """

    def __init__(self, user: str, *, sees_all: bool) -> None:
        self.user = user
        self.sees_all = sees_all
        self.needs_whole = True
        self._waiting: list[bytes] = []
        self._something = asyncio.Event()
        self._closed = False
        self._told: dict[str, Any] = {}

    def send(self, text: bytes) -> None:
        """Have this sent; whoever reads too slowly loses it and gets everything anew."""
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.clear()
            self._told = {}
            self.needs_whole = True
            return
        if text.startswith(b"event: whole"):
            self.needs_whole = False
        self._waiting.append(text)
        self._something.set()

    def tell_about(self, about: dict[str, Any]) -> None:
        """Have the person told about themselves, when something but the time has changed."""
        if about | {"now": None} != self._told:
            self._told = about | {"now": None}
            self.send(message("me", about))

    def close(self) -> None:
        """Let `next` return nothing."""
        self._closed = True
        self._something.set()

    async def next(self) -> bytes:
        """Return what waits, as soon as there is something; nothing when closed."""
        await self._something.wait()
        self._something.clear()
        waiting, self._waiting = self._waiting, []
        return b"" if self._closed else b"".join(waiting)


def message(event: str, data: object) -> bytes:
    """Return one server-sent event."""
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
