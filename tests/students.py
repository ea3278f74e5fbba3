"""A student at a browser, without the browser: login, start page, progress, server, as HTTP requests."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from hubs import Hub


class Student:
    """One person, logged in; `statuses` are the HTTP statuses of everything that person has seen."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub = hub
        self.name = name
        self.statuses: list[int] = []
        self.session = hub.session(name)
        self.session.hooks["response"].append(self._note)

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self.statuses.append(response.status_code)

    def request(self, method: str, path: str, timeout: float = 60, **more: Any) -> requests.Response:
        """Ask for a path of the site."""
        more.setdefault("allow_redirects", False)
        return self.session.request(method, self.hub.url + path, timeout=timeout, **more)

    def start_page(self) -> str:
        """Return the page with the start form."""
        return self.request("GET", "/hub/spawn", allow_redirects=True).text

    def submit_start(self, **options: str) -> requests.Response:
        """Press start on the start page."""
        return self.request("POST", "/hub/spawn", data={"gpu": "one", **options})

    def events(self) -> list[dict[str, Any]]:
        """Return what the progress page shows, from its first line to its last."""
        answer = self.request("GET", f"/hub/api/users/{self.name}/server/progress")
        assert answer.ok, (answer.status_code, answer.text)
        return [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")]

    def start(self, **options: str) -> dict[str, Any]:
        """Press start and watch the progress page to its end; return the last event."""
        page = self.submit_start(**options)
        if page.status_code != 302:
            told = re.search(r'role="alert">(.*?)</div>', page.text, re.DOTALL)
            return {"failed": True, "message": unescape(told[1]) if told else page.text}
        return self.events()[-1]

    def started(self, **options: str) -> Student:
        """Start, and fail unless the server is ready."""
        last = self.start(**options)
        assert last.get("ready"), (last, self.hub.log_tail())
        return self

    def stop(self) -> requests.Response:
        """Press stop."""
        return self.request("DELETE", f"/hub/api/users/{self.name}/server")

    def ask_server(self, path: str = "api") -> requests.Response:
        """Ask the own server, through the proxy."""
        return self.request("GET", f"/user/{self.name}/{path}")
