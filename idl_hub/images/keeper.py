"""The hub's part: students' servers run the offered image, and every server has it and nothing old."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from docker.errors import ImageNotFound

from idl_hub.images import servers
from idl_hub.images.offers import Offers, offers
from idl_hub.images.pull import Pull, PullError
from idl_hub.spawners.host import HostError
from idl_hub.spawners.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from idl_hub.db import Database
    from idl_hub.images.offers import Image
    from idl_hub.images.pull import Server
    from idl_hub.settings import Settings

log = logging.getLogger("idl_hub.images")
LOOK_EVERY_SECONDS = 60.0
"""Time between two looks at what the servers have."""
_FIRST_PERCENT, _LAST_PERCENT = 22, 30


class Images:
    """One per hub, run inside its loop."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._registry = settings.images.registry
        self._kept = settings.images.kept
        self._name = settings.spawner.image
        self._offers = Offers(database)
        self._pulls: dict[tuple[str, str], Pull] = {}
        self._said: dict[str, str] = {}
        self._lacking: set[str] = set()

    @property
    def lacking(self) -> frozenset[str]:
        """Servers that did not have the offered image when they were last looked at: better not chosen."""
        return frozenset(self._lacking)

    # -- for a start ------------------------------------------------------------------------------------

    async def obtain(
        self, server: Server, name: str, policy: str, say: Callable[[int, str], None], seconds: float
    ) -> str:
        """Return the image that a container is to be made from, once it lies on the server.

        Parameters
        ----------
        name
            As the settings call it; the offered version of it is meant, where there is a registry.
        policy
            dockerspawner's ``pull_policy``.
        say
            Tells the student how far it is, with a percentage.
        seconds
            How long the student can wait for a pull; the pull itself goes on.

        Raises
        ------
        Refusal
            When it does not come (in time).
        docker.errors.ImageNotFound
            When it is missing and may not be pulled.
        """
        image = await self._offered(name)
        reference = image.reference(self._registry) if image and self._registry else name
        if policy == "skip":
            return reference
        if policy != "always":
            try:
                await server.call("inspect_image", reference)
            except ImageNotFound:
                if policy == "never":
                    raise
            else:
                return reference
        if image is None and self._registry and name == self._name:
            raise Refusal(
                "No image has been offered to students yet, so no server can start. Tell the course's admins: "
                "`idl-hub images rollout` offers one.",
                "image",
                503,
            )
        pull = self._pull(server, reference, image.layers if image else {})
        try:
            async with asyncio.timeout(seconds):
                async for standing in pull.watch():
                    span = _LAST_PERCENT - _FIRST_PERCENT
                    say(_FIRST_PERCENT + int(span * standing.done_ratio), standing.words)
        except TimeoutError:
            raise Refusal(
                f"The image is not yet on {server.name} ({pull.standing().words}). That goes on without you. "
                "Nothing of yours is lost. Start your server again in a few minutes.",
                "image",
                503,
            ) from None
        except PullError as error:
            raise Refusal(
                f"Your server cannot start on {server.name}: the image that it runs has to be fetched there first, "
                f"and {error}. Nothing of yours is lost. Try again in a few minutes; if it stays so, tell the "
                "course's admins.",
                "image",
                503,
            ) from error
        say(_LAST_PERCENT, f"The image is here: {pull.summary()}")
        return reference

    async def _offered(self, name: str) -> Image | None:
        if self._registry is None:
            return None
        return next(iter(offers(await self._offers.of(name))), None)

    def _pull(self, server: Server, reference: str, sizes: Mapping[str, int]) -> Pull:
        """Return the pull that is under way, or begin one: all who wait for an image wait for the same pull."""
        key = (server.name, reference)
        if key not in self._pulls:
            log.info("%s: pulling %s", server.name, reference)
            pull = self._pulls[key] = Pull(server, reference, sizes)
            pull.task.add_done_callback(lambda _: self._pulled(key, pull))
        return self._pulls[key]

    def _pulled(self, key: tuple[str, str], pull: Pull) -> None:
        del self._pulls[key]
        server, reference = key
        error = None if pull.task.cancelled() else pull.task.exception()
        if error is not None:
            self._lacking.add(server)
            self._say(server, f"{reference} cannot be pulled: {getattr(error, 'detail', error)}")
        elif not pull.task.cancelled():
            self._lacking.discard(server)
            self._said.pop(server, None)
            log.info("%s: pulled %s: %s", server, reference, pull.summary())

    # -- by itself ----------------------------------------------------------------------------------------

    async def run(self, answering: Callable[[], Iterable[Server]]) -> None:
        """Keep every server that answers supplied and tidy until cancelled; nothing to do without a registry.

        ``idl-hub images rollout`` has done so before it offers an image. This is for servers that were away
        then, that are new, and whose last session with an old image has ended.
        """
        if self._registry is None:
            return
        try:
            while True:
                await asyncio.gather(*(self._look_after(server, self._registry) for server in answering()))
                await asyncio.sleep(LOOK_EVERY_SECONDS)
        finally:
            for pull in self._pulls.values():
                pull.task.cancel()

    async def _look_after(self, server: Server, registry: str) -> None:
        try:
            stock = await servers.look(server, registry)
            images = await self._offers.all()
            for reference in servers.to_remove(stock, images, registry, self._kept, [self._name]):
                if await servers.remove(server, reference):
                    log.info("%s: removed %s, which is old and used by nobody", server.name, reference)
            offered = next(iter(offers(image for image in images if image.name == self._name)), None)
            if offered is None or offered.reference(registry) in stock.references:
                self._lacking.discard(server.name)
            else:
                self._lacking.add(server.name)
                self._pull(server, offered.reference(registry), offered.layers)
        except HostError as error:
            self._say(server.name, str(error))
        except Exception:  # looking after the others must go on, whatever is wrong with this one
            log.exception("Looking after the images of %s failed; trying again", server.name)

    def _say(self, server: str, what: str) -> None:
        """Log what is wrong with a server once, not at every look."""
        if self._said.get(server) != what:
            self._said[server] = what
            log.warning("%s: %s", server, what)
