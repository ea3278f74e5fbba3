"""Server-sent events: what has changed, as it changes."""

from __future__ import annotations

import asyncio
import contextlib

from tornado import web
from tornado.iostream import StreamClosedError

from idl_hub.web.api import API
from idl_hub.web.viewer import Viewer, message

_CHECK_AGAIN_SECONDS = 60
_MOST_FOR_ONE_PERSON = 20


class Events(API):
    """`GET api/events`: everybody; staff get the map, everybody what concerns them."""

    viewer: Viewer | None = None

    async def get(self) -> None:
        """Send until the browser goes away, or the hub no longer knows the person."""
        if self.live.watching(self.visitor.name) >= _MOST_FOR_ONE_PERSON:
            raise web.HTTPError(429)
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")
        self.viewer = viewer = Viewer(self.visitor.name, sees_all=self.visitor.sees_all)
        self.live.watch(viewer)
        checking = asyncio.create_task(self._check_again(viewer))
        try:
            self.write(b"retry: 2000\n" + message("hello", {"sees_all": viewer.sees_all}))
            await self.flush()
            while text := await viewer.next():
                self.write(text)
                await self.flush()
        except StreamClosedError:
            pass  # the browser went away
        finally:
            checking.cancel()
            self.live.leave(viewer)

    def on_connection_close(self) -> None:
        """End with the connection."""
        if self.viewer is not None:
            self.viewer.close()

    async def _check_again(self, viewer: Viewer) -> None:
        """Close when the token was revoked (a logout, say); while the hub is away, what was known stands."""
        token = self.hub_auth.get_token(self)
        while True:
            await asyncio.sleep(_CHECK_AGAIN_SECONDS)
            with contextlib.suppress(web.HTTPError):
                if await self.hub_auth.user_for_token(token, use_cache=False, sync=False) is None:
                    viewer.close()
                    return
