"""Looks at the Docker engine of a server."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from idl_hub.doctor import certificates
from idl_hub.doctor.look import DEPLOY, judge_clock
from idl_hub.spawners.engine_events import base, listener

if TYPE_CHECKING:
    from idl_hub.doctor.look import Look
    from idl_hub.doctor.result import Found
    from idl_hub.settings_servers import EngineSettings, ServerSettings

_PAGE = "engine-does-not-answer.md"
_OPEN_PORT = 2375
"""Docker's own number for an engine without TLS, which makes whoever reaches it root."""
_PROBE_SECONDS = 2.0
_ANSWER_SECONDS = 8.0


class EngineError(Exception):
    """The engine does not answer, or answers with an error; the message says so."""


async def ask(engine: EngineSettings, path: str, **params: str) -> tuple[Any, dict[str, str]]:
    """Ask an engine; return its answer, None for HTTP 404, and the answer's headers.

    Raises
    ------
    EngineError
        With what went wrong.
    """
    try:
        async with (
            listener(engine, _ANSWER_SECONDS) as client,
            client.get(f"{base(engine.url)}{path}", params=params) as answer,
        ):
            told = None if answer.status == 404 else await answer.json()
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise EngineError(str(error) or type(error).__name__) from error
    if answer.status not in (200, 404):
        raise EngineError(f"HTTP {answer.status}: {(told or {}).get('message', '')}")
    return told, dict(answer.headers)


async def look_at_engine(look: Look, server: ServerSettings, found: Found) -> None:
    """Look at its certificates, its version, what must be set there, the students' network, and the clock."""
    engine = server.engine
    if engine is None:
        found.facts.append("none")
        return
    if engine.url.startswith("tcp:"):
        await _certificates(engine, found)
    before = time.time()
    try:
        info, headers = await ask(engine, "/info")
        network, _ = await ask(engine, f"/networks/{look.settings.spawner.network}")
    except EngineError as error:
        found.fail(
            f"it does not answer: {error}; nobody gets a session there",
            f"on {server.name}: `systemctl status docker`, `journalctl -u docker`; then `systemctl restart docker`, "
            "which sessions survive",
            _PAGE,
        )
        return
    judge_clock(found, headers, look.settings.gpus.reading_max_age_seconds, before)
    found.facts.insert(0, f"Docker {info['ServerVersion']}, {info['ContainersRunning']} containers")
    found.versions["Docker"] = info["ServerVersion"]
    if server.address and engine.url.startswith("tcp:"):
        _judge_settings(found, info)
        await _must_be_closed(found, engine, server.address)
    _judge_network(found, network, look.settings.spawner.network)


async def _certificates(engine: EngineSettings, found: Found) -> None:
    where = urlsplit(engine.url)
    own, key = engine.certificate_file, engine.key_file
    assert own is not None  # noqa: S101 - the settings see to that
    assert key is not None  # noqa: S101
    try:
        valid = await certificates.shown_at(where.hostname or "", where.port or 0, client=(own, key))
    except (OSError, ValueError):
        return  # the questions that follow say why
    certificates.judge(found, f"the engine at {where.netloc}", valid, f"{DEPLOY}; then the engine is restarted")


def _judge_settings(found: Found, info: dict[str, Any]) -> None:
    if not info.get("LiveRestoreEnabled"):
        found.fail("live-restore is off: a restart of the engine would end every session there", DEPLOY)
    if info.get("CgroupDriver") != "cgroupfs":
        found.warn(
            f"its cgroup driver is {info.get('CgroupDriver')}: `systemctl daemon-reload` would take the GPUs away from "
            "sessions that run",
            DEPLOY,
        )


def _judge_network(found: Found, network: dict[str, Any] | None, name: str) -> None:
    if network is None:
        found.fail(f"the students' network {name} is missing: no session starts there", DEPLOY)
    elif (network.get("Options") or {}).get("com.docker.network.bridge.enable_icc") != "false":
        found.fail(
            f"containers in the network {name} reach each other: students can get at each other's servers",
            f"when no session runs there: `docker network rm {name}`, then {DEPLOY}",
            "isolation.md",
        )


async def _must_be_closed(found: Found, engine: EngineSettings, address: str) -> None:
    where = urlsplit(engine.url)
    stranger, plain = await asyncio.gather(
        _lets_strangers_in(where.hostname or "", where.port or 0), _is_open(address, _OPEN_PORT)
    )
    if stranger:
        found.fail(
            f"the engine at {where.netloc} answers without a certificate: whoever reaches it is root there",
            f"take the server off the network, then {DEPLOY}",
            "isolation.md",
        )
    if plain:
        found.fail(
            f"something listens at {address}:{_OPEN_PORT}, where engines answer everybody",
            "on the server: `ss -ltnp 'sport = :2375'`; end it",
            "isolation.md",
        )


async def _lets_strangers_in(host: str, port: int) -> bool:
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    connector = aiohttp.TCPConnector(ssl=tls)
    try:
        async with (
            asyncio.timeout(_PROBE_SECONDS),
            aiohttp.ClientSession(connector=connector) as client,
            client.get(f"https://{host}:{port}/_ping"),
        ):
            return True
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


async def _is_open(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


# -- images -------------------------------------------------------------------------------------------


async def look_at_image(server: ServerSettings, reference: str, found: Found) -> None:
    """Look whether the image that students' sessions start from is there."""
    if server.engine is None:
        return
    try:
        image, _ = await ask(server.engine, f"/images/{reference}/json")
    except EngineError as error:
        found.fail(f"its engine does not say which images it has: {error}", "see the check engine", _PAGE)
        return
    short = reference.rpartition("/")[2]
    if image is None:
        found.fail(
            f"{short} is missing: starts there must fetch it first",
            "the hub fetches it by itself within minutes; if not, `idl-hub images rollout` says why",
            "registry-gone.md",
        )
    else:
        found.facts.append(f"{short[:60]} is there")


# -- leases -------------------------------------------------------------------------------------------


async def containers_of(server: ServerSettings, hub_id: str, hub_label: str, lease_label: str) -> dict[str, str]:
    """Return container id -> lease id, of this hub's containers on a server; raises `EngineError`."""
    if server.engine is None:
        return {}
    filters = json.dumps({"label": [f"{hub_label}={hub_id}"]})
    listed, _ = await ask(server.engine, "/containers/json", all="1", filters=filters)
    return {one["Id"]: (one.get("Labels") or {}).get(lease_label, "") for one in listed or ()}
