"""What a smoke test asks of the hub, from where people are: through the public address, TLS and the proxy."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from idl_hub.doctor.certificates import trusting
from idl_hub.smoke.failure import NotNowError, SmokeError
from idl_hub.spawners.refusal import NOTHING_FREE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

_CALL_SECONDS = 90.0
"""JupyterHub answers a start after 10 s at most, a stop when the server has ended."""
_ASK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Where the hub and the test's server are reached, and with what.

    Attributes
    ----------
    address
        The hub's, without a path: ``https://hub.example.org``.
    server_address
        The same for the server of `account`, which may have a domain of its own.
    authorities
        PEM files of who may vouch for the address beside whom this machine trusts.
    """

    account: str
    address: str
    server_address: str
    token: str
    authorities: tuple[Path, ...] = ()


class Site:
    """The hub's REST API and the test's own server. Open it with ``async with``."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._api = f"{place.address}/hub/api/users/{place.account}"
        self.server = f"{place.server_address}/user/{place.account}/"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Site:
        try:
            tls = trusting(self._place.authorities)
        except OSError as error:
            files = ", ".join(map(str, self._place.authorities))
            raise SmokeError(f"Of {files} not all can be used as authority: {error}.") from error
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls),
            headers={"Authorization": f"token {self._place.token}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_CALL_SECONDS),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connection, with the token."""
        if self._session is None:
            raise RuntimeError("The site is not open.")
        return self._session

    async def ask(
        self, method: str, url: str, fine: set[int], body: Mapping[str, Any] | None = None
    ) -> tuple[int, str]:
        """Ask once; return status and text.

        Raises
        ------
        SmokeError
            No answer, or one with another status than those in `fine`.
        """
        try:
            async with self.session.request(method, url, json=body, allow_redirects=False) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise SmokeError(_no_answer(url, error)) from error
        if response.status == 403 and 403 not in fine:
            raise SmokeError(
                f"The hub refuses the test's token at {url}. It learns tokens when it starts: restart it "
                "(`docker restart idl-hub-hub`; sessions go on)."
            )
        if response.status not in fine:
            raise SmokeError(f"{method} {url} was answered with HTTP {response.status}: {_said(text)}")
        return response.status, text

    # -- the account ------------------------------------------------------------------------------

    async def user(self) -> dict[str, Any] | None:
        """Return what the hub says of the account; None when there is none."""
        status, text = await self.ask("GET", self._api, {200, 404})
        return dict(json.loads(text)) if status == 200 else None

    async def create(self) -> None:
        """Make the account."""
        await self.ask("POST", self._api, {201})

    async def delete(self) -> None:
        """Delete the account; gone already is fine."""
        await self.ask("DELETE", self._api, {204, 404})

    # -- its server -------------------------------------------------------------------------------

    async def start(self, options: Mapping[str, str], seconds: float, tell: Callable[[str], None]) -> None:
        """Start the server and return when it is ready, telling what the start page would show.

        Raises
        ------
        NotNowError
            No GPU is free.
        SmokeError
            The start failed, or took longer than so many seconds.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._ask_to_start(options)
                last = await self._follow(tell)
        except TimeoutError:
            raise SmokeError(f"The server was not ready after {seconds:.0f} s.") from None
        if not last.get("ready"):
            raise _refused(str(last.get("message") or last))

    async def _ask_to_start(self, options: Mapping[str, str]) -> None:
        while True:
            status, text = await self.ask(
                "POST", f"{self._api}/server", {201, 202, 409, 429}, {"user_options": dict(options)}
            )
            if status == 409:
                raise _refused(_said(text))
            if status != 429:
                return
            await asyncio.sleep(_ASK_AGAIN_SECONDS)  # too many start at the same time

    async def _follow(self, tell: Callable[[str], None]) -> dict[str, Any]:
        last: dict[str, Any] = {}
        async for event in self._events():
            last = event
            if event.get("message") and not event.get("failed"):
                tell(str(event["message"]))
            if event.get("ready") or event.get("failed"):
                break
        return last

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        url = f"{self._api}/server/progress"
        try:
            async with self.session.get(url, timeout=aiohttp.ClientTimeout(total=None, connect=20)) as response:
                if response.status != 200:
                    raise SmokeError(f"GET {url} was answered with HTTP {response.status}.")
                async for line in response.content:
                    if line.startswith(b"data:"):
                        yield json.loads(line[5:])
        except (aiohttp.ClientError, OSError) as error:
            raise SmokeError(_no_answer(url, error)) from error

    async def stop(self, seconds: float) -> None:
        """Stop the server, however far it is, and return when the hub shows none; no account is fine.

        Raises
        ------
        SmokeError
            It was still there after so many seconds.
        """
        deadline = time.monotonic() + seconds
        while True:
            user = await self.user()
            if user is None or not (user.get("servers") or user.get("pending") or user.get("server")):
                return
            if user.get("pending") != "stop":
                # 400: it is stopping already, or too early in its start to be stopped.
                await self.ask("DELETE", f"{self._api}/server", {202, 204, 400, 404})
            if time.monotonic() > deadline:
                raise SmokeError(f"The test's server was still there {seconds:.0f} s after it was asked to stop.")
            await asyncio.sleep(_ASK_AGAIN_SECONDS)


def _refused(words: str) -> SmokeError:
    return NotNowError(words) if NOTHING_FREE in words else SmokeError(f"The server did not start: {words}")


def _said(text: str) -> str:
    try:
        return str(json.loads(text).get("message") or text)[:500]
    except (ValueError, AttributeError):
        return " ".join(text.split())[:200]


def _no_answer(url: str, error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return f"The certificate at {url} is not trusted here: {error}. `idl-hub doctor --only address` says more."
    return f"{url} does not answer: {error or type(error).__name__}. Do Caddy, proxy and hub run? Try `idl-hub doctor`."
