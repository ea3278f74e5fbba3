"""Brings an image to all servers, and says whether it may be offered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idl_hub.images.pull import Pull, PullError
from idl_hub.images.servers import look
from idl_hub.spawners.host import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from idl_hub.images.board import Board
    from idl_hub.images.offers import Image
    from idl_hub.images.pull import Server

AT_ONCE = 4
"""Servers that pull at the same time: the registry has one disk and one line."""
_DEADLINE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Supply:
    """Whether a server has an image."""

    server: str
    has_it: bool
    answers: bool = True
    why: str = ""
    """Why it lacks it, as the end of a sentence."""


async def bring(
    servers: Sequence[Server], image: Image, registry: str, board: Board, seconds: float = _DEADLINE_SECONDS
) -> list[Supply]:
    """Pull an image on every server, some at a time; one that fails does not keep the others from it.

    Parameters
    ----------
    seconds
        Deadline of one server.
    """
    turn = asyncio.Semaphore(AT_ONCE)
    reference = image.reference(registry)

    async def one(server: Server) -> Supply:
        try:
            if reference in (await look(server, registry)).references:
                board.tell(server.name, "has it already", last=True)
                return Supply(server.name, has_it=True)
        except HostError as error:
            board.tell(server.name, str(error), last=True)
            return Supply(server.name, has_it=False, answers=False, why=str(error).rstrip("."))
        board.tell(server.name, "waits for its turn")
        async with turn:
            return await _pull(server, reference, image.layers, board, seconds)

    return list(await asyncio.gather(*map(one, servers)))


async def _pull(server: Server, reference: str, sizes: Mapping[str, int], board: Board, seconds: float) -> Supply:
    pull = Pull(server, reference, sizes)
    try:
        async with asyncio.timeout(seconds):
            async for standing in pull.watch():
                board.tell(server.name, standing.words)
    except TimeoutError:
        why = f"it was not fetched within {seconds / 60:.0f} minutes"
    except PullError as error:
        why = str(error)
        # What the engine said, where that is more than what we make of it.
        board.tell(server.name, f"FAILED: {error}" + (f" ({error.detail})" if error.detail != why else ""), last=True)
        return Supply(server.name, has_it=False, why=why)
    else:
        board.tell(server.name, f"has it now: {pull.summary()}", last=True)
        return Supply(server.name, has_it=True)
    finally:
        pull.task.cancel()
    board.tell(server.name, f"FAILED: {why}", last=True)
    return Supply(server.name, has_it=False, why=why)


async def supplies(servers: Sequence[Server], image: Image, registry: str) -> list[Supply]:
    """Say which servers have an image, without pulling it."""

    async def one(server: Server) -> Supply:
        try:
            has_it = image.reference(registry) in (await look(server, registry)).references
        except HostError as error:
            return Supply(server.name, has_it=False, answers=False, why=str(error).rstrip("."))
        return Supply(server.name, has_it, why="" if has_it else "it has not been pulled there")

    return list(await asyncio.gather(*map(one, servers)))


def why_not(found: Iterable[Supply], out_of_service: Mapping[str, str]) -> str:
    """Say why an image may not be offered; empty when it may.

    It may when every server that answers and is in service has it, and at least one has.
    """
    found = list(found)
    if not any(supply.has_it for supply in found):
        reasons = "; ".join(f"{supply.server}: {supply.why}" for supply in found)
        return f"no server has it ({reasons})" if reasons else "there are no servers"
    lacking = [one for one in found if one.answers and not one.has_it and one.server not in out_of_service]
    return "; ".join(f"{supply.server} lacks it, since {supply.why}" for supply in lacking)


def later(found: Iterable[Supply], out_of_service: Mapping[str, str]) -> list[str]:
    """Name the servers that lack an image and do not keep it from being offered, each with the reason."""
    return [
        f"{supply.server} ({f'out of service: {out_of_service[supply.server]}' if supply.answers else 'no answer'})"
        for supply in found
        if not supply.has_it and (not supply.answers or supply.server in out_of_service)
    ]
