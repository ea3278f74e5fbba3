"""The way from a student's server to the hub's pages (`idl-hub web`), with the server's own token."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from idl_hub.lab import session

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

CACHE_SECONDS = 5.0
_CONNECT_SECONDS = 2.0
_LOOK_SECONDS = 3.0
_ASK_SECONDS = 15.0
_LONGEST_ANSWER_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class HubSays:
    """The hub's latest answer."""

    reachable: bool
    words: str = ""
    """Why it is not reachable."""
    session: session.Session | None = None
    """What is known of the session; the last known names and times when the hub is not reachable."""
    simulated: bool | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request."""

    done: bool
    words: str


class HubLink:
    """Asks the hub about this server.

    Parameters
    ----------
    url
        Where `idl-hub web` answers, with its prefix; empty when the hub runs without it.
    token
        This server's own token.
    clock, monotonic
        Where the time comes from.
    """

    def __init__(
        self,
        url: str,
        token: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._clock = clock
        self._monotonic = monotonic
        self._client = AsyncHTTPClient(force_instance=True, defaults={}, max_body_size=_LONGEST_ANSWER_BYTES)
        self._one_at_a_time = asyncio.Lock()
        self._latest = HubSays(reachable=False, words="it was not asked yet")
        self._fresh_until = float("-inf")

    async def look(self) -> HubSays:
        """Return what the hub says; at most 5 seconds old, and never later than after 3 seconds."""
        async with self._one_at_a_time:
            if self._monotonic() >= self._fresh_until:
                self._latest = await self._look()
                self._fresh_until = self._monotonic() + CACHE_SECONDS
            return self._latest

    async def _look(self) -> HubSays:
        if not self._url:
            return HubSays(reachable=False, words="this hub offers no pages about GPUs")
        try:
            answer = await self._fetch("GET", "me", _LOOK_SECONDS)
        except (HTTPClientError, OSError, ValueError) as error:
            log.debug("The hub's pages do not answer: %s", error)
            known = session.without_notice(self._latest.session)
            return HubSays(reachable=False, words=_why(error), session=known, simulated=self._latest.simulated)
        simulated = answer.get("simulated") is True
        return HubSays(reachable=True, session=session.parse(answer, self._clock()), simulated=simulated)

    async def ask(self, what: str) -> Outcome:
        """Ask for ``keep`` or ``extend`` and return what the hub made of it, in words for the student."""
        if not self._url:
            return Outcome(done=False, words="This hub offers no pages about GPUs.")
        try:
            answer = await self._fetch("POST", f"me/{what}", _ASK_SECONDS)
        except HTTPClientError as error:
            return Outcome(done=False, words=_refusal(error))
        except (OSError, ValueError):
            return Outcome(done=False, words="The hub cannot be reached right now. Try again in a moment.")
        finally:
            self._fresh_until = float("-inf")
        words = answer.get("result")
        if answer.get("state") == "asked":
            return Outcome(done=False, words="The hub has not answered yet. Try again in a moment.")
        return Outcome(done=answer.get("state") == "done", words=words if isinstance(words, str) else "")

    async def _fetch(self, method: str, path: str, seconds: float) -> dict[str, Any]:
        """Return the JSON object that the hub answers with.

        Raises
        ------
        HTTPClientError, OSError, ValueError
            No answer, a refusal, or no JSON object.
        """
        request = HTTPRequest(
            f"{self._url}/api/{path}",
            method=method,
            headers={"Authorization": f"token {self._token}", "Accept": "application/json"},
            body="{}" if method == "POST" else None,
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=seconds,
            follow_redirects=False,  # the token is for this address alone
        )
        response = await self._client.fetch(request)
        answer = json.loads(response.body)
        if not isinstance(answer, dict):
            raise ValueError("the hub's answer is no JSON object")  # noqa: TRY004 - one kind of wrong JSON among others
        return answer

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()


def _why(error: Exception) -> str:
    if isinstance(error, HTTPClientError) and error.code in (401, 403):
        return "it does not accept this server's token"
    if isinstance(error, HTTPClientError) and error.code != 599:
        return f"it answers with an error ({error.code})"
    return "it does not answer"


def _refusal(error: HTTPClientError) -> str:
    """Return the hub's own words for a refusal, where it gave some."""
    try:
        answer = json.loads(error.response.body) if error.response else {}
    except ValueError:
        answer = {}
    words = answer.get("result") or answer.get("message") if isinstance(answer, dict) else None
    if isinstance(words, str):
        return words
    return f"The hub could not do that: {_why(error)}. Try again in a moment."
