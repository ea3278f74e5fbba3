"""Which images were published, which one is offered, which ones stay on the servers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docker.utils import parse_repository_tag
from sqlalchemy import select

from idl_hub.db.tables import ImageRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from idl_hub.db import Database

SHORT_DIGEST = 12
"""So many hexadecimal digits tell images and layers apart; Docker shows as many."""


@dataclass(frozen=True, slots=True)
class Image:
    """One version of an image, as it lies in the registry."""

    name: str
    """As the settings call it, such as ``idl-hub/student:latest``."""
    digest: str
    """``sha256:`` and 64 digits: what it is, whoever hands it out."""
    layers: Mapping[str, int]
    """First digits of each layer's digest -> its packed size in bytes, which is what travels."""
    created_at: float
    published_at: float
    published_by: str
    offered_at: float | None = None
    """When it was last offered; seconds since 1970."""
    withdrawn_at: float | None = None
    """When an earlier one was offered in its place."""
    removed_at: float | None = None
    """When it was taken out of the registry."""

    @property
    def short(self) -> str:
        """The digest as people write it."""
        return self.digest.removeprefix("sha256:")[:SHORT_DIGEST]

    @property
    def size_bytes(self) -> int:
        """What a server without any of it fetches."""
        return sum(self.layers.values())

    def reference(self, registry: str) -> str:
        """Return what an engine is asked for: this very version, whatever is published later."""
        return f"{repository_of(registry, self.name)}@{self.digest}"


def path_of(registry: str, name: str) -> str:
    """Return where an image of this name lies in the registry, without the registry's address and without tag."""
    path: str = parse_repository_tag(name)[0]
    return path.removeprefix(f"{registry}/")


def repository_of(registry: str, name: str) -> str:
    """Return where an image of this name lies in the registry as engines are told, without tag."""
    return f"{registry}/{path_of(registry, name)}"


# -- rules ------------------------------------------------------------------------------------------


def offers(images: Iterable[Image]) -> list[Image]:
    """Return what was offered and not withdrawn, the last offered first: that one is what students get."""
    found = [image for image in images if image.offered_at is not None and image.withdrawn_at is None]
    return sorted(found, key=_offered_at, reverse=True)


def stay(images: Sequence[Image], kept: int) -> frozenset[str]:
    """Return the digests that stay on the servers, of the images of one name.

    These are the offered one, the `kept` others that were offered last (withdrawn ones too: a mistaken way back
    must not cost a pull), and those published since, which wait to be offered.
    """
    current = offers(images)[:1]
    others = sorted((image for image in images if image.offered_at is not None), key=_offered_at, reverse=True)
    others = [image for image in others if image not in current][:kept]
    since = current[0].published_at if current else 0.0
    waiting = [image for image in images if image.offered_at is None and image.published_at >= since]
    return frozenset(image.digest for image in (*current, *others, *waiting))


def _offered_at(image: Image) -> float:
    return image.offered_at or 0.0


def find(images: Sequence[Image], wanted: str) -> Image:
    """Return the image that a person means by ``latest`` or the beginning of a digest.

    Raises
    ------
    ValueError
        When it is none of these images, or several.
    """
    if wanted == "latest":
        if not images:
            raise ValueError("no image has been published yet; `idl-hub images publish` does that")
        return max(images, key=lambda image: image.published_at)
    digits = wanted.removeprefix("sha256:")
    found = [image for image in images if digits and image.digest.removeprefix("sha256:").startswith(digits)]
    if len(found) != 1:
        what = "no published image begins" if not found else f"{len(found)} published images begin"
        raise ValueError(f"{what} with {wanted!r}; `idl-hub images list` shows them. Nothing was changed.")
    return found[0]


# -- the table ---------------------------------------------------------------------------------------


class Offers:
    """The table of published images. The command ``idl-hub images`` writes it, the hub only reads it."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def all(self) -> tuple[Image, ...]:
        """Return every image that is in the registry."""
        return await self._database.run(in_registry)

    async def of(self, name: str) -> list[Image]:
        """Return the images of this name that are in the registry."""
        return [image for image in await self.all() if image.name == name]

    async def publish(self, image: Image) -> bool:
        """Note what lies in the registry now and is the latest; False when it did lie there before."""

        def write(session: Session) -> bool:
            row = _row(session, image)
            is_new = row is None or row.removed_at is not None
            if row is None:
                row = ImageRow(name=image.name, digest=image.digest)
                session.add(row)
            if is_new:
                row.offered_at = row.withdrawn_at = row.removed_at = None
            row.layers, row.created_at = json.dumps(dict(image.layers)), image.created_at
            row.published_at, row.published_by = self._clock(), image.published_by
            return is_new

        return await self._database.run(write)

    async def offer(self, image: Image) -> None:
        """Let students' next servers run this image."""

        def write(session: Session) -> None:
            row = _row(session, image)
            assert row is not None  # noqa: S101 - rows are never deleted
            row.offered_at, row.withdrawn_at = self._clock(), None

        await self._database.run(write)

    async def withdraw(self, image: Image) -> None:
        """Let the one that was offered before be the offered one again."""

        def write(session: Session) -> None:
            row = _row(session, image)
            assert row is not None  # noqa: S101 - rows are never deleted
            row.withdrawn_at = self._clock()

        await self._database.run(write)

    async def remove(self, image: Image) -> None:
        """Note that the image is no longer in the registry."""

        def write(session: Session) -> None:
            row = _row(session, image)
            assert row is not None  # noqa: S101 - rows are never deleted
            row.removed_at = self._clock()

        await self._database.run(write)


def in_registry(session: Session) -> tuple[Image, ...]:
    """Return every image in the registry, the last published first, within a transaction of the caller."""
    rows = session.scalars(select(ImageRow).where(ImageRow.removed_at.is_(None)).order_by(ImageRow.published_at.desc()))
    return tuple(_image(row) for row in rows)


def _row(session: Session, image: Image) -> ImageRow | None:
    return session.scalars(
        select(ImageRow).where(ImageRow.name == image.name, ImageRow.digest == image.digest)
    ).one_or_none()


def _image(row: ImageRow) -> Image:
    return Image(
        name=row.name,
        digest=row.digest,
        layers=json.loads(row.layers),
        created_at=row.created_at,
        published_at=row.published_at,
        published_by=row.published_by,
        offered_at=row.offered_at,
        withdrawn_at=row.withdrawn_at,
        removed_at=row.removed_at,
    )
