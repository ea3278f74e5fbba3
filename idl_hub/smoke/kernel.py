"""A kernel of the test's server, reached as a browser reaches it: through the proxy, over a websocket."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import aiohttp

from idl_hub.smoke.failure import SmokeError

if TYPE_CHECKING:
    from idl_hub.smoke.site import Site

_CONNECT_SECONDS = 30.0


class Kernel:
    """A Python kernel; ends with its server. Made by `open_kernel`."""

    def __init__(self, site: Site, kernel_id: str) -> None:
        self._site = site
        self._url = f"{site.server}api/kernels/{kernel_id}/channels"

    async def run(self, code: str, seconds: float) -> str:
        """Run code and return what it printed.

        Raises
        ------
        SmokeError
            It raised, or had not ended after so many seconds, or the connection broke.
        """
        request = _request(code)
        try:
            async with (
                asyncio.timeout(seconds),
                self._site.session.ws_connect(
                    self._url, timeout=aiohttp.ClientWSTimeout(ws_close=5), max_msg_size=2**24
                ) as socket,
            ):
                await socket.send_json(request)
                return await _printed(socket, request["header"]["msg_id"])
        except TimeoutError:
            raise SmokeError(f"The kernel had not done its work after {seconds:.0f} s.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise SmokeError(f"The websocket of the kernel could not be used: {error}.") from error


async def open_kernel(site: Site) -> Kernel:
    """Start a Python kernel.

    Raises
    ------
    SmokeError
        When it does not start.
    """
    _, text = await site.ask("POST", f"{site.server}api/kernels", {201}, {"name": "python3"})
    return Kernel(site, str(json.loads(text)["id"]))


def _request(code: str) -> dict[str, Any]:
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "smoke",
        "session": uuid.uuid4().hex,
        "version": "5.3",
    }
    return {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}


async def _printed(socket: aiohttp.ClientWebSocketResponse, request_id: str) -> str:
    """Collect what the request prints until the kernel is idle again."""
    printed = ""
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            break
        told = json.loads(message.data)
        if told.get("parent_header", {}).get("msg_id") != request_id:
            continue
        kind, content = told["header"]["msg_type"], told["content"]
        if kind == "stream" and content["name"] == "stdout":
            printed += content["text"]
        elif kind == "error":
            raise SmokeError(f"The code in the kernel failed with {content['ename']}: {content['evalue']}")
        elif kind == "status" and content["execution_state"] == "idle":
            return printed
    raise SmokeError("The connection to the kernel broke before its work was done.")
