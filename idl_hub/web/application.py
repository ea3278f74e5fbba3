"""Puts the parts of `idl-hub web` together."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jupyterhub._data import DATA_FILES_PATH
from jupyterhub.services.auth import HubOAuth, HubOAuthCallbackHandler
from tornado import web

from idl_hub import subdomains
from idl_hub.db.commands import Commands
from idl_hub.people import PROMETHEUS, USE_WEB
from idl_hub.tokens import service_token
from idl_hub.web import api, pages, service, versions
from idl_hub.web.access import Groups
from idl_hub.web.metrics import Metrics
from idl_hub.web.stream import Events

if TYPE_CHECKING:
    from idl_hub.db import Database
    from idl_hub.settings import Settings
    from idl_hub.web.live import Live

_HERE = Path(__file__).parent
_CACHE_SECONDS = 30
_ID = "([^/]+)"


class Health(web.RequestHandler):
    """`GET health`: everybody, also strangers."""

    def get(self) -> None:
        """Say that the process answers."""
        self.finish({"ok": True})


class _Callback(HubOAuthCallbackHandler):
    """Where the hub sends a browser after the login."""

    def initialize(self, hub_auth: HubOAuth) -> None:
        self.hub_auth = hub_auth


class _Asset(web.StaticFileHandler):
    """Files that hold nothing secret."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")  # asked about each time, answered 304
        self.set_header("X-Content-Type-Options", "nosniff")


def hub_auth(settings: Settings) -> HubOAuth:
    """Return the way to the hub: who is behind a token or a browser's cookie."""
    hub = settings.hub
    host = f"[{hub.internal_address}]" if ":" in hub.internal_address else hub.internal_address
    return HubOAuth(
        api_url=f"http://{host}:{hub.internal_port}/hub/api",
        api_token=service.token(hub.state_directory),
        base_url=service.PREFIX,
        hub_prefix="/hub/",
        oauth_client_id=f"service-{service.NAME}",
        oauth_redirect_uri=f"{service.public_url(settings)}oauth_callback",
        access_scopes={USE_WEB},
        cache_max_age=_CACHE_SECONDS,
        hub_host=hub.subdomain_host,
        cookie_host_prefix_enabled=subdomains.is_secure(hub.subdomain_host),
    )


def make(settings: Settings, live: Live, database: Database, auth: HubOAuth) -> web.Application:
    """Return the application, to be served below `service.PREFIX`."""
    shared: dict[str, Any] = {
        "hub_auth": auth,
        "live": live,
        "commands": Commands(database),
        "groups": Groups(auth.api_url, auth.api_token),
    }
    addresses: list[tuple[str, type[web.RequestHandler]]] = [
        ("", pages.Map),
        ("line", pages.LinePage),
        ("lost", pages.LostPage),
        ("openapi.yaml", api.Description),
        ("api/me", api.Me),
        ("api/me/(keep|extend|leave-line|elsewhere)", api.MyRequest),
        ("api/fleet", api.FleetView),
        ("api/line", api.LineView),
        ("api/events", Events),
        (f"api/servers/{_ID}/(drain|undrain)", api.ServerRequest),
        (f"api/gpus/{_ID}/(exclude|include|end-orphan)", api.GPURequest),
        (f"api/sessions/{_ID}/end", api.SessionRequest),
        (f"api/line/{_ID}/(front|leave)", api.PlaceRequest),
        ("versions", versions.VersionsPage),
        ("api/versions", versions.VersionList),
        (f"api/versions/{_ID}/differences", versions.Differences),
        (f"api/versions/{_ID}/folder", versions.Folder),
        (f"api/versions/{_ID}/file", versions.File),
        (f"api/versions/{_ID}/restore", versions.Restore),
        ("api/.*", api.Nothing),
    ]
    assets = {
        "static/hub/(.*)": Path(DATA_FILES_PATH) / "static",  # JupyterHub's own look, also while the hub is away
        "static/(idl_hub.css)": _HERE / "templates",
        "static/(.*)": _HERE / "static",
    }
    prefix = service.PREFIX
    return web.Application(
        [
            (f"{prefix}health", Health),
            (f"{prefix}metrics", Metrics, {"token": partial(service_token, settings.hub.state_directory, PROMETHEUS)}),
            (f"{prefix}oauth_callback", _Callback, {"hub_auth": auth}),
            *((prefix + path, _Asset, {"path": str(folder)}) for path, folder in assets.items()),
            *((prefix + path, handler, shared) for path, handler in addresses),
            (".*", pages.Missing, shared),
        ],
        cookie_secret=secrets.token_bytes(32),
        idl_hub_settings=settings,
        idl_hub_versions=versions.Versions(settings),
        idl_hub_templates=Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined
        ),
    )
