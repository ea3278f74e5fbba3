"""Looks at the hub's own processes, and at the address that people type."""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import jupyterhub

from idl_hub import subdomains
from idl_hub.db.accounts import SMOKE_TEST
from idl_hub.doctor import certificates
from idl_hub.gpus.members import SAY_AT_LEAST_EVERY_SECONDS
from idl_hub.web.service import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from idl_hub.doctor.look import Look
    from idl_hub.doctor.result import Found
    from idl_hub.gpus.members import Member

_PAGE = "hub-does-not-answer.md"
_PROXY_PAGE = "no-page-opens.md"
_TIMEOUT = aiohttp.ClientTimeout(total=8)
_CONTAINER = "`docker logs --tail 50 idl-hub-{name}`; then `docker restart idl-hub-{name}`, which sessions survive"


async def get(url: str, token: str = "", authorities: Iterable[Path] = ()) -> tuple[int, Any]:
    """Ask once, without following anything; return the status, and what JSON says, or None.

    Raises
    ------
    aiohttp.ClientError, OSError
        No answer; TimeoutError is one of them.
    """
    tls = certificates.trusting(authorities)
    headers = {"Authorization": f"token {token}"} if token else {}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), timeout=_TIMEOUT) as client,
        client.get(url, headers=headers, allow_redirects=False) as answer,
    ):
        told = await answer.json() if answer.content_type == "application/json" else None
        return answer.status, told


async def look_at_hub(look: Look, members: tuple[Member, ...], found: Found) -> None:
    """Look whether the hub's API answers, in which version, and whether its keeper of GPUs and leases is at work."""
    hub = look.settings.hub
    url = f"{_url(hub.internal_address, hub.internal_port)}/hub/api/"
    advice = _CONTAINER.format(name="hub")
    try:
        status, told = await get(url)
    except (aiohttp.ClientError, OSError) as error:
        found.fail(f"its API at {url} does not answer ({_words(error)}): nobody can log in or start", advice, _PAGE)
        return
    if status != 200 or not isinstance(told, dict):
        found.fail(f"its API at {url} answers with HTTP {status}", advice, _PAGE)
        return
    version = told.get("version")
    found.facts.append(f"JupyterHub {version}")
    if version != jupyterhub.__version__:
        found.warn(f"it runs JupyterHub {version}, but {jupyterhub.__version__} is installed", advice, _PAGE)
    silent_seconds = time.time() - max((member.said_at for member in members), default=0.0)
    if silent_seconds > 3 * SAY_AT_LEAST_EVERY_SECONDS:
        found.fail("its keeper of GPUs and leases is not at work: no session can start", advice, _PAGE)


async def look_at_proxy(look: Look, found: Found) -> None:
    """Look whether people's requests get through to the hub, and whether the proxy knows where to send them."""
    hub = look.settings.hub
    url = f"{_url(hub.public_address, hub.public_port)}/hub/health"
    advice = _CONTAINER.format(name="proxy")
    try:
        status, _ = await get(url)
    except (aiohttp.ClientError, OSError) as error:
        found.fail(
            f"it does not answer at {url} ({_words(error)}): nobody reaches the hub or their server",
            advice,
            _PROXY_PAGE,
        )
        return
    if status != 200:
        found.fail(
            f"it does not reach the hub: HTTP {status} at {url}", "see the check hub; if that is well, " + advice
        )
    else:
        found.facts.append("requests get through")
    await _routes(look, advice, found)


async def _routes(look: Look, advice: str, found: Found) -> None:
    url = f"http://127.0.0.1:{look.settings.hub.proxy_api_port}/api/routes"
    try:
        status, routes = await get(url, look.proxy_token)
    except (aiohttp.ClientError, OSError) as error:
        found.fail(
            f"its API at {url} does not answer ({_words(error)}): no new server can be reached", advice, _PROXY_PAGE
        )
        return
    if status == 403:
        found.facts.append("its API answers")
        if look.proxy_token:
            found.fail("its API refuses the hub's token: no new server can be reached", advice, _PROXY_PAGE)
        return
    if not isinstance(routes, dict):
        found.fail(f"its API at {url} answers with HTTP {status}", advice)
        return
    origin = urlsplit(look.settings.hub.subdomain_host).hostname or ""
    web = urlsplit(subdomains.service_origin(look.settings.hub.subdomain_host, "web")).hostname or ""
    wanted = {"the hub": f"/{origin}" if origin else "/", "the GPU pages": f"/{web}{PREFIX}" if web else PREFIX}
    there = {route.rstrip("/") for route in routes}
    for what, route in wanted.items():
        if route.rstrip("/") not in there:
            found.fail(f"it has no route to {what} ({route})", _CONTAINER.format(name="hub"))
    found.facts.append(f"{len(routes)} routes")


async def look_at_web(look: Look, found: Found) -> None:
    """Look whether the GPU pages answer."""
    url = f"http://127.0.0.1:{look.settings.hub.web_port}{PREFIX}health"
    try:
        status, _ = await get(url)
    except (aiohttp.ClientError, OSError) as error:
        status, why = 0, _words(error)
    else:
        why = f"HTTP {status}"
    if status == 200:
        found.facts.append("they answer")
    else:
        found.fail(
            f"they do not answer ({why}): no map, no place in line; sessions go on",
            _CONTAINER.format(name="web"),
            "map-does-not-open.md",
        )


async def look_at_address(look: Look, found: Found) -> None:
    """Look at the address that people type: name, certificate, way to the hub."""
    await _look_at_origin(look, look.address.rstrip("/"), "/hub/health", found)
    if look.settings.hub.subdomain_host:
        # Any user's domain will do; this one is nobody's.
        origin = subdomains.user_origin(look.settings.hub.subdomain_host, SMOKE_TEST)
        await _look_at_origin(look, origin, "/hub/health", found)


async def _look_at_origin(look: Look, origin: str, path: str, found: Found) -> None:
    where = urlsplit(origin)
    host, port = where.hostname or "", where.port or 443
    page = _PROXY_PAGE
    if where.scheme == "https":
        try:
            valid = await certificates.shown_at(host, port, host)
        except ssl.SSLError as error:
            found.fail(
                f"{host}, port {port}, shows no certificate ({error.reason or error}): nobody reaches the hub",
                "`journalctl -u caddy` says why there is none",
                "certificate-expires.md",
            )
            return
        except (OSError, ValueError) as error:
            found.fail(
                f"{host} does not answer at port {port} ({_words(error)}): nobody reaches the hub",
                f"`getent hosts {host}` must say this machine's public address; `systemctl status caddy`; is the port "
                "open in the firewall before this machine?",
                page,
            )
            return
        certificates.judge(
            found, host, valid, "`journalctl -u caddy` says why it was not renewed; a certificate of your own: renew it"
        )
    try:
        status, _ = await get(origin + path, authorities=look.authorities)
    except aiohttp.ClientConnectorCertificateError as error:
        found.fail(
            f"the certificate at {host} is not to be trusted ({error.certificate_error}): browsers warn of the hub",
            "`journalctl -u caddy`; does the certificate name this address? Is its chain complete?",
            "certificate-expires.md",
        )
        return
    except (aiohttp.ClientError, OSError) as error:
        found.fail(f"{origin} does not answer ({_words(error)})", "`systemctl status caddy`", page)
        return
    if status in (301, 302, 303) and origin != look.address.rstrip("/"):
        status = 200  # pages of the hub lead from a user's domain to its own
    if status != 200:
        found.fail(f"{origin} does not lead to the hub: HTTP {status}", "see the checks proxy and hub", page)
    else:
        found.facts.insert(0, f"{origin} leads to the hub")


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _words(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
