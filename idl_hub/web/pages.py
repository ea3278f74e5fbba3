"""The pages: the map, the line, and what to do when one's server does not answer."""

from __future__ import annotations

from tornado import web

from idl_hub.people import WRITE_FLEET, WRITE_LINE, WRITE_SESSIONS
from idl_hub.web.base import Page


class Map(Page):
    """`GET /`: everybody; staff see the whole fleet, students their own GPU."""

    async def get(self) -> None:
        """Render the frame; the values come as events."""
        visitor = self.visitor
        may = {
            "fleet": visitor.has_some(WRITE_FLEET),
            "line": visitor.has_some(WRITE_LINE),
            "sessions": visitor.has_some(WRITE_SESSIONS),
        }
        self.show("map.html" if visitor.sees_all else "own.html", here="map", may=may)


class LinePage(Page):
    """`GET line`: everybody, about their own place."""

    async def get(self) -> None:
        """Render the frame; the values come as events."""
        self.show("line.html", here="line")


class LostPage(Page):
    """`GET lost`: everybody, about their own session whose server does not answer."""

    async def get(self) -> None:
        """Render the frame; the values come as events."""
        self.show("lost.html", here="lost")


class Missing(Page):
    """Every other address without ``api``."""

    async def get(self) -> None:
        """Say that there is nothing."""
        raise web.HTTPError(404)
