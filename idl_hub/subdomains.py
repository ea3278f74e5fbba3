"""A domain for each user and service below the hub's: where things are, and that the hub stays on its own.

Pages of different origins cannot read each other. With one domain for all, whatever a student's server sends
to somebody's browser is of the same origin as the hub and as everybody's server.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jupyterhub.utils import subdomain_hook_idna
from tornado import web

if TYPE_CHECKING:
    from jupyterhub.app import JupyterHub

_READING = frozenset({"GET", "HEAD"})


def service_origin(subdomain_host: str, name: str) -> str:
    """Return where people reach a service: empty when it is where the hub is.

    Parameters
    ----------
    subdomain_host
        As in the settings: scheme, domain and port of the hub, or nothing.
    """
    return _below(subdomain_host, name, "service") if subdomain_host else ""


def service_url(subdomain_host: str, name: str) -> str:
    """Return where people's browsers reach a service: a path, or all of it where it has its own domain."""
    return f"{service_origin(subdomain_host, name)}/services/{name}/"


def user_origin(subdomain_host: str, name: str) -> str:
    """Return where people reach a user's server; parameters and result as of `service_origin`."""
    return _below(subdomain_host, name, "user") if subdomain_host else ""


def _below(subdomain_host: str, name: str, kind: str) -> str:
    hub = urlsplit(subdomain_host)
    domain = subdomain_hook_idna(name, hub.hostname, kind)
    return f"{hub.scheme}://{domain}:{hub.port}" if hub.port else f"{hub.scheme}://{domain}"


def configure(c: Any, subdomain_host: str) -> None:
    """Give each user and service a domain; with an empty host nothing is changed."""
    if not subdomain_host:
        return
    c.JupyterHub.subdomain_host = subdomain_host
    # By itself, for JupyterHub 6.1 does not find the function by its name "idna", which is its default.
    c.JupyterHub.subdomain_hook = subdomain_hook_idna
    # A student's page may set cookies for all of the hub's domain. Names with this prefix it cannot set, but
    # browsers take them only over https.
    c.JupyterHub.cookie_host_prefix_enabled = is_secure(subdomain_host)


def is_secure(subdomain_host: str) -> bool:
    """Whether people come over https, so that cookies may be bound to one host."""
    return subdomain_host.startswith("https://")


def keep_hub_on_its_own_domain(app: JupyterHub, subdomain_host: str) -> None:
    """Have the hub serve no page of its own on a user's or a service's domain.

    JupyterHub answers at every host, so that bookmarks of servers that do not run lead somewhere. But its pages, and
    above all its login page, on a student's domain would be open to the scripts of that student's server.

    Parameters
    ----------
    app
        The hub, before it has made its web application.
    """
    if not subdomain_host:
        return
    make_application = app.init_tornado_application
    others = rf".+\.{re.escape(str(urlsplit(subdomain_host).hostname))}$"

    def make_and_guard() -> None:
        make_application()
        pages = [(rf"{re.escape(app.hub_prefix)}.*", _Elsewhere, {"host": subdomain_host})]
        # Rules for a host are looked at before those for all hosts.
        app.tornado_application.add_handlers(others, pages)

    app.init_tornado_application = make_and_guard


class _Elsewhere(web.RequestHandler):
    """A page of the hub, asked for at another's domain."""

    def initialize(self, host: str) -> None:
        self._host = host

    def check_xsrf_cookie(self) -> None:
        """Check nothing: whatever comes here changes nothing."""

    def prepare(self) -> None:
        """Lead readers to the hub; refuse everything else, passwords above all."""
        if self.request.method not in _READING:
            raise web.HTTPError(421, reason="Misdirected Request")
        self.redirect(self._host + self.request.uri)
