"""Has a Docker engine pull an image, and passes on what it tells meanwhile; holds none of its threads."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
from docker import auth
from docker.errors import DockerException
from docker.utils import parse_repository_tag

from idl_hub.spawners.engine_events import base, listener
from idl_hub.spawners.host import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from idl_hub.settings_servers import EngineSettings


async def pull(
    name: str, engine: EngineSettings, reference: str, silence_seconds: float
) -> AsyncGenerator[Mapping[str, Any], None]:
    """Yield the engine's words on a pull, line by line, until it is done; who stops listening ends the pull.

    A failed pull has ``error`` in its last line.

    Parameters
    ----------
    reference
        ``repository:tag`` or ``repository@sha256:...``.
    silence_seconds
        The engine is given up when it tells nothing for so long.

    Raises
    ------
    HostError
        No connection, it was lost, or the engine was silent for too long; or what `docker login` noted is of no use.
    """
    repository, tag = parse_repository_tag(reference)
    try:
        # In a thread: it may run a program that keeps passwords.
        credentials = await asyncio.to_thread(_credentials, repository)
    except DockerException as error:
        raise HostError(f"What `docker login` noted on the hub's machine cannot be used ({error}).") from error
    try:
        async with (
            listener(engine, silence_seconds) as client,
            client.post(
                f"{base(engine.url)}/images/create",
                params={"fromImage": repository, "tag": tag or "latest"},
                headers=credentials,
            ) as answer,
        ):
            if answer.status != 200:
                yield {"error": _message(await answer.text())}
                return
            async for line in answer.content:
                if line.strip():
                    yield json.loads(line)
    except TimeoutError:
        raise HostError(f"The Docker engine of {name} told nothing for {silence_seconds:g} s.") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise HostError(f"The Docker engine of {name} does not answer ({error}).") from error


def _credentials(repository: str) -> dict[str, str]:
    """Return what ``docker login`` noted on the hub's machine for the registry of this image, if anything."""
    registry, _ = auth.resolve_repository_name(repository)
    known = auth.load_config().resolve_authconfig(registry)
    return {"X-Registry-Auth": auth.encode_header(known).decode()} if known else {}


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip() or "no reason given"
