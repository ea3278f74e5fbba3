"""Who asks, and what they may: the scopes that the hub gave to their token decide, nothing else."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from idl_hub.people import READ_FLEET, USE_WEB

if TYPE_CHECKING:
    from collections.abc import Mapping

_KNOWN_SECONDS = 30
_TIMEOUT_SECONDS = 5


class HubAwayError(Exception):
    """The hub does not say who is in a group."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person (through a browser, a token or their server) or a service."""

    name: str
    scopes: frozenset[str]
    kind: str = "user"

    @classmethod
    def of_model(cls, model: Mapping[str, Any]) -> Visitor:
        """Return who the hub says it is."""
        return cls(str(model["name"]), frozenset(model.get("scopes", ())), str(model.get("kind", "user")))

    @property
    def may_enter(self) -> bool:
        """Whether the service is open to them at all."""
        return bool({USE_WEB, "access:services"} & self.scopes)

    @property
    def sees_all(self) -> bool:
        """Whether they see servers, GPUs, sessions and names, or only what concerns them."""
        return READ_FLEET in self.scopes

    def filters(self, scope: str) -> tuple[str, ...]:
        """Return for whom they have a scope: filters such as ``group=students``; ``""`` stands for everybody."""
        found = (held.partition("!") for held in self.scopes)
        return tuple(sorted(limit for name, _, limit in found if name == scope))

    def has_some(self, scope: str) -> bool:
        """Whether they have a scope for anybody."""
        return bool(self.filters(scope))


class Groups:
    """Who is in which group, asked of the hub and remembered for 30 s."""

    def __init__(self, api_url: str, token: str) -> None:
        self._api_url = api_url
        self._token = token
        self._known: dict[str, tuple[float, frozenset[str]]] = {}

    async def members(self, group: str) -> frozenset[str]:
        """Return the names of a group's members; none when there is no such group.

        Raises
        ------
        HubAwayError
            When the hub does not answer.
        """
        asked_at, members = self._known.get(group, (float("-inf"), frozenset()))
        if time.monotonic() - asked_at < _KNOWN_SECONDS:
            return members
        members = await self._ask(group)
        self._known[group] = (time.monotonic(), members)
        return members

    async def _ask(self, group: str) -> frozenset[str]:
        request = HTTPRequest(
            f"{self._api_url}/groups/{quote(group, safe='')}",
            headers={"Authorization": f"token {self._token}"},
            connect_timeout=_TIMEOUT_SECONDS,
            request_timeout=_TIMEOUT_SECONDS,
        )
        try:
            answer = await AsyncHTTPClient().fetch(request)
        except HTTPClientError as error:
            if error.code == 404:
                return frozenset()
            raise HubAwayError(str(error)) from error
        except OSError as error:
            raise HubAwayError(str(error)) from error
        return frozenset(json.loads(answer.body).get("users", ()))

    async def allows(self, visitor: Visitor, scope: str, user: str) -> bool:
        """Whether the visitor has the scope for this user; raises as `members` does."""
        for limit in visitor.filters(scope):
            kind, _, value = limit.partition("=")
            if limit == "" or (kind == "user" and value == user):
                return True
            if kind == "group" and user in await self.members(value):
                return True
        return False
