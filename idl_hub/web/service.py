"""What the hub and `idl-hub web` must agree on: the service's name, its address and its token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idl_hub import subdomains
from idl_hub.people import CUSTOM_SCOPES, USE_WEB, WEB
from idl_hub.tokens import service_token

if TYPE_CHECKING:
    from pathlib import Path

    from idl_hub.settings import Settings

NAME = WEB
PREFIX = f"/services/{NAME}/"
_START_SECONDS = 3
"""The hub waits so long for the service when it starts; a hub without map serves students all the same."""


def token(state_directory: Path) -> str:
    """Return the service's token.

    Raises
    ------
    OSError
        When its file cannot be made or read.
    """
    return service_token(state_directory, NAME)


def hub_entry(settings: Settings) -> dict[str, Any]:
    """Return the service as JupyterHub's configuration lists it."""
    return {
        "name": NAME,
        "url": f"http://127.0.0.1:{settings.hub.web_port}",
        "api_token": token(settings.hub.state_directory),
        "oauth_no_confirm": True,
        "oauth_client_allowed_scopes": [USE_WEB, *CUSTOM_SCOPES],
        "timeout": _START_SECONDS,
    }


def public_url(settings: Settings) -> str:
    """Return where people's browsers reach the service: a path, or all of it where it has its own domain."""
    return subdomains.service_url(settings.hub.subdomain_host, NAME)


def url_for_servers(settings: Settings) -> str:
    """Return where students' servers reach the service; they authenticate with their own token."""
    address = settings.hub.internal_address
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{settings.hub.web_port}{PREFIX}"
