"""The Jupyter server extension: what the browser asks its own server about its GPU.

Loaded at every start of a student's server, so it imports what the server has imported already and nothing
else; the rest comes with a browser's first question.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

if TYPE_CHECKING:
    from idl_hub.lab.status import Reporter

_REPORTER = "idl_hub_reporter"


class _Handler(APIHandler):
    """What all of them have in common: one reporter, and looking at the GPU is no use of the server."""

    auth_resource = "idl-hub"
    _track_activity = False

    @property
    def reporter(self) -> Reporter:
        if _REPORTER not in self.settings:
            from idl_hub.lab.status import for_this_process  # noqa: PLC0415 - not at every start

            self.settings[_REPORTER] = for_this_process(self.kernel_manager, self.session_manager)
        reporter: Reporter = self.settings[_REPORTER]
        return reporter


class MeHandler(_Handler):
    """``GET me``: the GPU, the session, the notice; with ``?details=1`` who holds the GPU's memory."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Status.as_json`."""
        from idl_hub.lab.status import now  # noqa: PLC0415 - not at every start

        status = await self.reporter.status(details=self.get_argument("details", "") == "1")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(status.as_json(now())))


class AskHandler(_Handler):
    """``POST keep`` and ``POST extend``: asks the hub; answers ``{"done": bool, "words": str}``."""

    def initialize(self, what: str) -> None:
        """Take what is to be asked."""
        super().initialize()
        self._what = what

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Ask, and say what came of it."""
        outcome = await self.reporter.hub.ask(self._what)
        self.finish(json.dumps({"done": outcome.done, "words": outcome.words}))


class NoteKillsHandler(_Handler):
    """``POST note-kills`` with ``{"kills": int}``: the student knows that so many programs were ended."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Tell of it no more."""
        kills = (self.get_json_body() or {}).get("kills")
        if not isinstance(kills, int):
            raise web.HTTPError(400, "kills is missing: the number that was told")
        self.reporter.kills.note(kills)
        self.set_status(204)
        self.finish()


class ShutdownKernelHandler(_Handler):
    """``POST shutdown-kernel`` with ``{"kernel_id": str}``."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Shut it down; its notebook stays open and keeps what it shows."""
        kernel_id = (self.get_json_body() or {}).get("kernel_id")
        if not isinstance(kernel_id, str):
            raise web.HTTPError(400, "kernel_id is missing: the kernel that is to be shut down")
        if not await self.reporter.shut_down_kernel(kernel_id):
            raise web.HTTPError(404, "This kernel has ended already.")
        self.set_status(204)
        self.finish()


class DeleteHandler(_Handler):
    """``POST delete`` with ``{"path": str}``: one of the largest files of the home; it does not go to the trash."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Delete it for good: the trash lies in the same full home."""
        path = (self.get_json_body() or {}).get("path")
        if not isinstance(path, str):
            raise web.HTTPError(400, "path is missing: the file that is to be deleted")
        try:
            await self.reporter.home.delete(path)
        except FileNotFoundError:
            raise web.HTTPError(404, "It is gone already.") from None
        except (ValueError, OSError) as error:
            raise web.HTTPError(400, str(error)) from error
        self.set_status(204)
        self.finish()


def _load_jupyter_server_extension(server: Any) -> None:
    """Add the handlers below ``idl-hub/``."""
    base = url_path_join(server.web_app.settings["base_url"], "idl-hub")
    server.web_app.add_handlers(
        ".*$",
        [
            (f"{base}/me", MeHandler),
            (f"{base}/keep", AskHandler, {"what": "keep"}),
            (f"{base}/extend", AskHandler, {"what": "extend"}),
            (f"{base}/note-kills", NoteKillsHandler),
            (f"{base}/shutdown-kernel", ShutdownKernelHandler),
            (f"{base}/delete", DeleteHandler),
        ],
    )
