"""What the hub's own helpers ask of JupyterHub, through its REST API and its proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
from jupyterhub.utils import url_path_join

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TIMEOUT = aiohttp.ClientTimeout(total=60)


class HubAPIError(Exception):
    """JupyterHub refused or did not answer.

    Attributes
    ----------
    busy
        Whether the same request may succeed a little later (429 and server errors, no answer).
    """

    def __init__(self, message: str, *, busy: bool) -> None:
        super().__init__(message)
        self.busy = busy


class HubAPI:
    """Starts and stops servers with a token that may do just that.

    Parameters
    ----------
    url
        Address of the hub's API, ending in ``/hub/api``.
    proxy
        Returns JupyterHub's proxy object, which knows when each server was last used by a browser.
    """

    def __init__(self, url: str, token: str, proxy: Callable[[], Any]) -> None:
        self._url = url
        self._token = token
        self._proxy = proxy

    async def start(self, user: str, server_name: str, options: Mapping[str, Any]) -> None:
        """Start a user's server; returns when it runs or is starting.

        Raises
        ------
        HubAPIError
            With `busy` when it is worth to try again.
        """
        await self._ask("POST", user, server_name, {"user_options": dict(options)}, {201, 202})

    async def stop(self, user: str, server_name: str) -> None:
        """Stop a user's server; one that does not run is fine.

        Raises
        ------
        HubAPIError
            With `busy` when it is worth to try again.
        """
        await self._ask("DELETE", user, server_name, None, {202, 204, 404})

    async def _ask(self, method: str, user: str, server_name: str, body: Any, fine: set[int]) -> None:
        path = f"users/{quote(user, safe='')}/server"
        if server_name:
            path = f"users/{quote(user, safe='')}/servers/{quote(server_name, safe='')}"
        headers = {"Authorization": f"token {self._token}"}
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers, trust_env=False) as session,
                session.request(method, url_path_join(self._url, path), json=body) as response,
            ):
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise HubAPIError(f"The hub did not answer: {error}", busy=True) from error
        if response.status not in fine:
            raise HubAPIError(f"The hub answered {response.status}: {text[:300]}", busy=response.status in {429, 503})

    async def last_use(self) -> dict[tuple[str, str], str]:
        """Return (user, server name) -> when the proxy last carried something to or from their server."""
        routes = await self._proxy().get_all_routes()
        return {
            (route["data"]["user"], route["data"].get("server_name", "")): str(route["data"].get("last_activity", ""))
            for route in routes.values()
            if route["data"].get("user")
        }
