"""One pull serves all who wait, is given up when nothing comes, and says why it failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, ImageNotFound
from parts import opened, sqlite_url, until

from idl_hub.db import Database
from idl_hub.images.keeper import Images
from idl_hub.images.offers import Image, Offers
from idl_hub.images.pull import Pull, PullError, meaning
from idl_hub.settings import Settings
from idl_hub.spawners.host import HostError
from idl_hub.spawners.refusal import Refusal

REGISTRY = "127.0.0.1:5000"
IMAGE = Image("idl-hub/student:latest", f"sha256:{'a' * 64}", {"layer": 4_000_000}, 0, 0, "root")
BEGIN = {"id": "layer", "status": "Pulling fs layer"}
END = {"id": "layer", "status": "Pull complete"}


@dataclass
class StandIn:
    """An engine whose pulls end when a test lets them; `told` is what it says before and `last` at the end."""

    name: str = "gpu01"
    told: tuple[Mapping[str, Any], ...] = (BEGIN,)
    last: tuple[Mapping[str, Any], ...] = (END,)
    here: set[str] = field(default_factory=set)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    pulls: int = 0
    ended: int = 0

    async def ping(self) -> None:
        """It answers."""

    async def call(self, method: str, *args: Any, **_: Any) -> Any:
        if method == "inspect_image":
            if args[0] not in self.here:
                raise ImageNotFound("no such image")
            return {}
        if method == "images":
            return [{"Id": reference, "RepoDigests": [reference]} for reference in self.here]
        if method == "remove_image":
            self.here.discard(args[0])
            return None
        assert method == "containers"
        return []

    async def pull(self, reference: str, silence_seconds: float) -> AsyncGenerator[Mapping[str, Any], None]:
        assert silence_seconds > 0
        self.pulls += 1
        try:
            for event in self.told:
                yield event
            await self.go_on.wait()
            for event in self.last:
                if "error" not in event:
                    self.here.add(reference)
                yield event
        finally:
            self.ended += 1


async def watched(pull: Pull) -> list[str]:
    return [standing.words async for standing in pull.watch()]


async def test_who_stops_waiting_does_not_end_the_pull_for_the_others() -> None:
    engine = StandIn()
    pull = Pull(engine, "image", IMAGE.layers)
    impatient, patient = asyncio.create_task(watched(pull)), asyncio.create_task(watched(pull))
    await until(lambda: engine.pulls == 1)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    engine.go_on.set()
    assert (await patient)[-1] == "Unpacking the image: 4 of 4 MB (100 %)"
    assert pull.summary().startswith("4 MB in ")


async def test_a_pull_that_brings_nothing_for_too_long_is_given_up_and_its_connection_closed() -> None:
    engine = StandIn()
    with pytest.raises(PullError, match="nothing came for 0 minutes"):
        await watched(Pull(engine, "image", {}, stall_seconds=0.05))
    await until(lambda: engine.ended == 1)


async def test_an_engine_that_stops_in_the_middle_without_a_word_has_not_pulled_the_image() -> None:
    engine = StandIn(last=())
    engine.go_on.set()
    with pytest.raises(PullError, match="the engine stopped pulling it"):
        await watched(Pull(engine, "image", {}))


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("write /var/lib/docker/tmp/x: no space left on device", "its disk is full"),
        (
            'Get "https://h:5000/v2/": dial tcp 10.0.0.1:5000: connect: connection refused',
            "the registry does not answer",
        ),
        ('Get "https://h:5000/v2/": net/http: TLS handshake timeout', "the registry does not answer"),
        ("manifest for h:5000/i@sha256:0 not found: manifest unknown", "the registry does not have it"),
        ("x509: certificate signed by unknown authority", "it does not trust the registry's certificate"),
        ("something else", "the engine says: something else"),
    ],
)
async def test_what_engines_say_is_told_in_words(said: str, means: str) -> None:
    assert meaning(said) == means
    engine = StandIn(told=({"error": said},))
    with pytest.raises(PullError) as caught:
        await watched(Pull(engine, "image", {}))
    assert (str(caught.value), caught.value.detail) == (means, said)


# -- the hub's part -----------------------------------------------------------------------------------


def settings(**images: Any) -> Settings:
    return Settings.model_validate({"images": {"registry": REGISTRY} | images})


@pytest.fixture
def database(tmp_path: Path) -> Any:
    with opened(sqlite_url(tmp_path)) as database:
        yield database


async def offered(database: Database) -> str:
    offers = Offers(database)
    await offers.publish(IMAGE)
    await offers.offer(IMAGE)
    return IMAGE.reference(REGISTRY)


class Told(list[tuple[int, str]]):
    def __call__(self, percent: int, words: str) -> None:
        self.append((percent, words))


async def obtain(
    images: Images, engine: StandIn, policy: str = "ifnotpresent", seconds: float = 20
) -> tuple[str, Told]:
    told = Told()
    return await images.obtain(engine, IMAGE.name, policy, told, seconds), told


async def test_all_starts_on_a_server_wait_for_the_same_pull_and_read_of_it(database: Database) -> None:
    reference = await offered(database)
    images, engine = Images(settings(), database), StandIn()
    read = [Told() for _ in range(5)]
    starts = [asyncio.create_task(images.obtain(engine, IMAGE.name, "ifnotpresent", told, 20)) for told in read]
    await until(lambda: all(read))
    engine.go_on.set()
    assert set(await asyncio.gather(*starts)) == {reference}
    for told in read:
        assert told[0][0] == 22
        assert told[0][1].startswith("Fetching the image")
        assert told[-1][0] == 30
        assert told[-1][1].startswith("The image is here: 4 MB in ")
    assert engine.pulls == 1
    assert (await obtain(images, engine))[1] == [], "now it is here"


async def test_a_start_that_cannot_wait_any_longer_says_how_far_it_is_and_the_pull_goes_on(database: Database) -> None:
    await offered(database)
    images, engine = Images(settings(), database), StandIn()
    with pytest.raises(Refusal, match=r"not yet on gpu01 \(Fetching the image: 0 of 4 MB.*goes on without you"):
        await obtain(images, engine, seconds=0.05)
    engine.go_on.set()
    await until(lambda: engine.here)
    assert engine.pulls == 1


async def test_a_server_to_which_the_image_does_not_come_is_avoided_until_it_does(database: Database) -> None:
    await offered(database)
    images = Images(settings(), database)
    engine = StandIn(told=({"error": "dial tcp: connect: connection refused"},))
    with pytest.raises(Refusal, match="has to be fetched there first, and the registry does not answer"):
        await obtain(images, engine)
    assert images.lacking == {"gpu01"}
    engine.told = ()
    engine.go_on.set()
    await obtain(images, engine)
    assert images.lacking == set()


async def test_without_an_offer_the_image_on_the_server_is_used_and_a_missing_one_is_not_looked_for_elsewhere(
    database: Database,
) -> None:
    images, engine = Images(settings(), database), StandIn(here={IMAGE.name})
    assert (await obtain(images, engine))[0] == IMAGE.name
    engine.here.clear()
    with pytest.raises(Refusal, match="No image has been offered to students yet"):
        await obtain(images, engine)
    assert engine.pulls == 0


@pytest.mark.parametrize(
    ("policy", "here", "pulls"), [("always", True, 1), ("skip", False, 0), ("ifnotpresent", True, 0)]
)
async def test_dockerspawners_pull_policies_keep_their_meaning(
    database: Database, policy: str, here: bool, pulls: int
) -> None:
    reference = await offered(database)
    images, engine = Images(settings(), database), StandIn(here={reference} if here else set())
    engine.go_on.set()
    assert (await obtain(images, engine, policy))[0] == reference
    assert engine.pulls == pulls


async def test_the_policy_never_lets_a_missing_image_be_missing(database: Database) -> None:
    await offered(database)
    engine = StandIn()
    with pytest.raises(ImageNotFound):
        await obtain(Images(settings(), database), engine, "never")
    assert engine.pulls == 0


async def test_without_a_registry_images_are_taken_by_name(database: Database) -> None:
    await offered(database)
    engine = StandIn()
    engine.go_on.set()
    assert (await obtain(Images(settings(registry=None), database), engine))[0] == IMAGE.name
    assert engine.here == {IMAGE.name}


class Failing(StandIn):
    """An engine that does not list its images."""

    async def call(self, method: str, *args: Any, **more: Any) -> Any:
        raise HostError("no answer") if method == "images" else APIError("refused")


async def test_the_hub_supplies_servers_and_clears_them_though_one_does_not_answer(database: Database) -> None:
    reference = await offered(database)
    old = f"{REGISTRY}/idl-hub/student@sha256:{'0' * 64}"
    engines = [Failing(name="gpu01"), StandIn(name="gpu02", here={old}), StandIn(name="gpu03", here={reference})]
    for engine in engines:
        engine.go_on.set()
    images = Images(settings(), database)
    looking = asyncio.create_task(images.run(lambda: engines))
    await until(lambda: engines[1].here == {reference})
    await until(lambda: not images.lacking)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert [engine.pulls for engine in engines] == [0, 1, 0]
