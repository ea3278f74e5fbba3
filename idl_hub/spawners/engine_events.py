"""What a Docker engine tells of our containers as it happens, and whether it answers."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any, Literal

import aiohttp

from idl_hub.spawners.host import Change, HostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from idl_hub.settings_servers import EngineSettings

_CONNECT_SECONDS = 10
# A connection that was cut without a word looks like one on which nothing happens; a new one tells them apart.
_SILENCE_SECONDS = 120
_LONGEST_LINE_BYTES = 2**20
_KINDS: tuple[Literal["start", "die", "oom"], ...] = ("start", "die", "oom")


async def follow(name: str, engine: EngineSettings, label: str) -> AsyncIterator[Change]:
    """Tell what happens to containers with a label, until the engine has been silent for two minutes.

    The first change is ``connected``.

    Raises
    ------
    HostError
        No connection, or it was lost.
    """
    filters = json.dumps({"type": ["container"], "event": list(_KINDS), "label": [label]})
    try:
        async with (
            listener(engine, _SILENCE_SECONDS) as client,
            client.get(f"{base(engine.url)}/events", params={"filters": filters}) as answer,
        ):
            if answer.status != 200:
                raise HostError(f"The Docker engine of {name} does not tell its events: HTTP {answer.status}.")
            yield Change("connected")
            async for line in answer.content:
                if (change := _change(line, label)) is not None:
                    yield change
    except TimeoutError:
        return
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise HostError(f"The Docker engine of {name} stopped telling its events ({error}).") from error


async def ping(name: str, engine: EngineSettings, timeout_seconds: float) -> None:
    """Return when the engine answers; raises `HostError` when it does not in time."""
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    try:
        async with (
            aiohttp.ClientSession(connector=_connector(engine), timeout=timeout, trust_env=False) as client,
            client.get(f"{base(engine.url)}/_ping") as answer,
        ):
            if answer.status != 200:
                raise HostError(f"The Docker engine of {name} is not well: HTTP {answer.status}.")
    except TimeoutError:
        raise HostError(f"The Docker engine of {name} does not answer within {timeout_seconds:g} s.") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise HostError(f"The Docker engine of {name} does not answer ({error}).") from error


def _change(line: bytes, label: str) -> Change | None:
    event: dict[str, Any] = json.loads(line)
    actor = event.get("Actor") or {}
    lease_id = (actor.get("Attributes") or {}).get(label, "")
    kind = event.get("Action")
    for known in _KINDS:
        if kind == known and lease_id:
            return Change(known, str(actor.get("ID", "")), lease_id)
    return None


def base(url: str) -> str:
    """Return the address of an engine as HTTP clients write it."""
    return "http://engine" if url.startswith("unix:") else url.replace("tcp://", "https://", 1)


def listener(engine: EngineSettings, silence_seconds: float) -> aiohttp.ClientSession:
    """Return a client for answers that come line by line, for as long as they come; it is closed by who asked."""
    timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_read=silence_seconds)
    return aiohttp.ClientSession(
        connector=_connector(engine), timeout=timeout, trust_env=False, read_bufsize=_LONGEST_LINE_BYTES
    )


def _connector(engine: EngineSettings) -> aiohttp.BaseConnector:
    """Return aiohttp's way to an engine, with the hub's certificate when it is reached over a network."""
    if engine.url.startswith("unix:"):
        return aiohttp.UnixConnector(path=engine.url.removeprefix("unix://"))
    trust = ssl.create_default_context(cafile=engine.ca_file)
    trust.load_cert_chain(str(engine.certificate_file), engine.key_file)
    return aiohttp.TCPConnector(ssl=trust)
