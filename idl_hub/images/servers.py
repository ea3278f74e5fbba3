"""What lies on a server of the images that are ours, and what may go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docker.errors import APIError, ImageNotFound

from idl_hub.images.offers import repository_of, stay
from idl_hub.spawners.engine import LEASE_LABEL
from idl_hub.spawners.host import HostError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from idl_hub.images.offers import Image
    from idl_hub.images.pull import Server


@dataclass(frozen=True, slots=True)
class Stock:
    """The images of the registry that a server has, each as ``repository@digest``."""

    server: str
    references: frozenset[str]
    used: frozenset[str]
    """Those that a container was made from, whoever made it and whether or not it runs."""
    sessions: Mapping[str, int]
    """How many sessions run each."""


async def look(server: Server, registry: str) -> Stock:
    """Ask an engine what it has of the registry; raises `HostError` when it does not say."""
    await server.ping()  # tells in seconds what a call would only tell at its long deadline
    try:
        images = await server.call("images")
        containers = await server.call("containers", all=True)
    except APIError as error:
        raise HostError(f"The Docker engine of {server.name} does not list its images: {error}.") from error
    made_from = {container["ImageID"] for container in containers}
    sessions = Counter(one["ImageID"] for one in containers if LEASE_LABEL in (one.get("Labels") or {}))
    ids = {
        reference: image["Id"]
        for image in images
        for reference in image.get("RepoDigests") or ()
        if reference.startswith(f"{registry}/")
    }
    return Stock(
        server.name,
        frozenset(ids),
        frozenset(reference for reference, image_id in ids.items() if image_id in made_from),
        {reference: sessions[image_id] for reference, image_id in ids.items() if sessions[image_id]},
    )


def staying(images: Collection[Image], registry: str, kept: int) -> frozenset[str]:
    """Return what stays on every server, of all names; two names may lie in one repository."""
    names = {image.name for image in images}
    return frozenset(
        f"{repository_of(registry, name)}@{digest}"
        for name in names
        for digest in stay([image for image in images if image.name == name], kept)
    )


def to_remove(stock: Stock, images: Collection[Image], registry: str, kept: int, names: Iterable[str]) -> list[str]:
    """Say what may go from a server: of the repositories that are ours, what need not stay and nobody uses.

    Parameters
    ----------
    images
        All in the registry, read after `stock` was seen: what is pulled was published before.
    names
        Names whose repositories are ours even when nothing is published under them.
    """
    ours = {repository_of(registry, name) for name in (*(image.name for image in images), *names)}
    going = stock.references - staying(images, registry, kept) - stock.used
    return sorted(reference for reference in going if reference.partition("@")[0] in ours)


async def remove(server: Server, reference: str) -> bool:
    """Take an image off a server; False when it is gone already or a container has been made from it meanwhile."""
    try:
        await server.call("remove_image", reference)
    except ImageNotFound:
        return False
    except APIError as error:
        if error.status_code == 409:  # in use; the engine never takes that away without being forced
            return False
        raise HostError(f"The Docker engine of {server.name} does not remove {reference}: {error}.") from error
    return True
