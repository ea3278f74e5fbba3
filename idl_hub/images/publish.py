"""Brings an image from the hub's machine into the registry."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, ImageNotFound

from idl_hub.images.offers import Image, path_of, repository_of
from idl_hub.images.pull import meaning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idl_hub.images.board import Board
    from idl_hub.images.registry import Registry


class PublishError(Exception):
    """An image was not published; the message says why."""


def publish(client: Any, registry: Registry, name: str, by: str, board: Board) -> Image:
    """Push an image that lies on the hub's machine to the registry, and return what it is there.

    Blocks, for minutes when the image is large.

    Parameters
    ----------
    client
        docker-py's client of the engine that has the image.
    by
        Who published it.

    Raises
    ------
    PublishError
        When there is no such image or the push fails.
    RegistryError
        When the registry does not tell of what was pushed.
    """
    found = _inspect(client, name)
    repository = repository_of(registry.address, name)
    # A tag of its own: what has one is safe from the registry's clean-up of untagged images.
    tag = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    client.tag(name, repository, tag)
    try:
        digest = _push(client, repository, tag, registry.address, board)
    finally:
        _untag(client, f"{repository}:{tag}")
    return Image(
        name=name,
        digest=digest,
        layers=registry.layers(path_of(registry.address, name), digest),
        created_at=datetime.fromisoformat(found["Created"]).timestamp(),
        published_at=time.time(),
        published_by=by,
    )


def already(client: Any, registry: Registry, name: str, latest: Image) -> bool:
    """Whether the image on the hub's machine is the one that was published last, and the registry still has it.

    Raises
    ------
    PublishError
        When there is no such image on the machine.
    RegistryError
        When the registry does not answer.
    """
    image_id = _inspect(client, name)["Id"]
    return registry.holds(path_of(registry.address, name), latest.digest, image_id)


def _inspect(client: Any, name: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = client.inspect_image(name)
    except ImageNotFound:
        raise PublishError(
            f"There is no image {name} on this machine. Build it first (script/image builds idl-hub/student:latest); "
            "`docker images` shows what there is."
        ) from None
    return found


def _push(client: Any, repository: str, tag: str, registry: str, board: Board) -> str:
    layers: dict[str, tuple[int, int]] = {}
    digest = ""
    for event in client.push(repository, tag, stream=True, decode=True):
        if "error" in event:
            said = str(event["error"])
            raise PublishError(
                f"The image could not be pushed to {registry}: {meaning(said)} ({said}). Nothing was changed."
            )
        digest = (event.get("aux") or {}).get("Digest") or digest
        _tally(layers, event)
        pushed, size = (sum(part) / 1e6 for part in zip(*layers.values(), strict=True)) if layers else (0, 0)
        board.tell(registry, f"{pushed:.0f} of {size:.0f} MB (unpacked)" if size else "comparing layers")
    if not digest:
        raise PublishError(f"The engine did not say under which digest the image lies in {registry}. Push it again.")
    board.tell(registry, f"has {repository}:{tag}", last=True)
    return digest


def _tally(layers: dict[str, tuple[int, int]], event: Mapping[str, Any]) -> None:
    detail = event.get("progressDetail") or {}
    layer_id = str(event.get("id", ""))
    if event.get("status") == "Pushing" and detail.get("total"):
        layers[layer_id] = (min(int(detail["current"]), int(detail["total"])), int(detail["total"]))
    elif event.get("status") == "Pushed" and layer_id in layers:
        size = layers[layer_id][1]
        layers[layer_id] = (size, size)


def _untag(client: Any, reference: str) -> None:
    """Take our tag off the image again, so that the machine's list of images does not grow."""
    with suppress(APIError):  # it costs no space
        client.remove_image(reference)
