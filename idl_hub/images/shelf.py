"""``idl-hub images list`` and ``prune``: what there is, where it lies, and what may go."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idl_hub.images.offers import offers, path_of
from idl_hub.images.servers import Stock, look, remove, staying, to_remove
from idl_hub.shell.table import moment, table
from idl_hub.spawners.host import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from idl_hub.images.offers import Image, Offers
    from idl_hub.images.pull import Server
    from idl_hub.images.registry import Registry


@dataclass(frozen=True, slots=True)
class Silent:
    """A server that did not say what it has, and why."""

    server: str
    why: str


async def stocks(servers: Iterable[Server], registry: str) -> list[Stock | Silent]:
    """Ask all servers what they have of the registry."""

    async def one(server: Server) -> Stock | Silent:
        try:
            return await look(server, registry)
        except HostError as error:
            return Silent(server.name, str(error))

    return list(await asyncio.gather(*map(one, servers)))


# -- list ---------------------------------------------------------------------------------------------


def _lines(images: Sequence[Image], found: Sequence[Stock | Silent], registry: str) -> list[dict[str, object]]:
    answered = [stock for stock in found if isinstance(stock, Stock)]
    lines: list[dict[str, object]] = []
    for image in images:
        reference = image.reference(registry)
        lines.append(
            {
                "name": image.name,
                "digest": image.digest,
                "reference": reference,
                "state": _state(image, images),
                "size_bytes": image.size_bytes,
                "created_at": image.created_at,
                "published_at": image.published_at,
                "published_by": image.published_by,
                "offered_at": image.offered_at,
                "servers": [stock.server for stock in answered if reference in stock.references],
                "servers_without": [stock.server for stock in answered if reference not in stock.references],
                "sessions": sum(stock.sessions.get(reference, 0) for stock in answered),
            }
        )
    return lines


def _state(image: Image, images: Sequence[Image]) -> str:
    if image in offers(one for one in images if one.name == image.name)[:1]:
        return "offered"
    if image.withdrawn_at is not None:
        return "withdrawn"
    return "earlier" if image.offered_at is not None else "published"


def as_json(images: Sequence[Image], found: Sequence[Stock | Silent], registry: str) -> str:
    """Return all that is known of each image."""
    silent = {one.server: one.why for one in found if isinstance(one, Silent)}
    return json.dumps({"images": _lines(images, found, registry), "silent": silent}, indent=2)


def as_text(images: Sequence[Image], found: Sequence[Stock | Silent], registry: str) -> str:
    """Return a table for people."""
    if not images:
        return "No image has been published yet; `idl-hub images publish` does that."
    heads = ("IMAGE", "DIGEST", "STATE", "MB", "CREATED", "PUBLISHED", "SERVERS", "SESSIONS")
    lines = zip(images, _lines(images, found, registry), strict=True)
    rows = [
        (
            image.name,
            image.short,
            str(line["state"]),
            f"{image.size_bytes / 1e6:.0f}",
            moment(image.created_at),
            moment(image.published_at),
            _servers(line),
            str(line["sessions"]),
        )
        for image, line in lines
    ]
    silent = [f"{one.server} does not say what it has: {one.why}" for one in found if isinstance(one, Silent)]
    return "\n".join([table(heads, rows, right=("MB", "SESSIONS")), *silent])


def _servers(line: Mapping[str, object]) -> str:
    there, without = line["servers"], line["servers_without"]
    assert isinstance(there, list)  # noqa: S101 - see _lines
    assert isinstance(without, list)  # noqa: S101
    if not there:
        return "none"
    if not without:
        return "all"
    return " ".join(there) if len(there) <= len(without) else f"all but {' '.join(without)}"


# -- prune ---------------------------------------------------------------------------------------------


async def prune(
    servers: Sequence[Server], table_of_images: Offers, registry: Registry, kept: int, names: Sequence[str]
) -> int:
    """Remove from every server what is old and unused, then from the registry what no server has any more.

    Returns the exit status: 1 when something could not be asked or removed.
    """
    found = await stocks(servers, registry.address)
    images = await table_of_images.all()
    left: set[str] = set()
    failed = False
    for server, stock in zip(servers, found, strict=True):
        if isinstance(stock, Silent):
            print(f"{stock.server}: {stock.why} It is looked after when it is back.")
            failed = True
            continue
        going = to_remove(stock, images, registry.address, kept, names)
        gone = await _remove_all(server, going)
        failed |= gone is None
        left |= stock.references - (gone or frozenset())
        print(f"{server.name}: {_count(len(gone or ()))} removed")
    if failed:
        print(f"{registry.address}: left as it is, since not every server told what it still has")
        return 1
    old = [
        image for image in images if image.reference(registry.address) not in staying(images, registry.address, kept)
    ]
    unused = [image for image in old if image.reference(registry.address) not in left]
    for image in unused:
        await asyncio.to_thread(registry.remove, path_of(registry.address, image.name), image.digest)
        await table_of_images.remove(image)
    used = len(old) - len(unused)
    print(f"{registry.address}: {_count(len(unused))} removed" + (f"; {_count(used)} still used" if used else ""))
    if unused:
        print("The registry frees their space at its next garbage collection; see docs/howto/new-image.md.")
    return 0


async def _remove_all(server: Server, references: Sequence[str]) -> frozenset[str] | None:
    """Remove, and return what is gone; None when the engine fails at it."""
    gone = set()
    for reference in references:
        try:
            if await remove(server, reference):
                gone.add(reference)
        except HostError as error:
            print(f"{server.name}: {error}")
            return None
    return frozenset(gone)


def _count(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"
