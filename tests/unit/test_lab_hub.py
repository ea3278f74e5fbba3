"""The way from a student's server to the hub's pages, over real connections."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from stand_in_web import StandInWeb, session, stand_in_web

from idl_hub.lab.hub import CACHE_SECONDS, HubLink


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def web() -> Iterator[StandInWeb]:
    with stand_in_web() as serving:
        serving.me = session("GPU-a")
        yield serving


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def hub(web: StandInWeb, clock: Clock) -> AsyncIterator[HubLink]:
    link = HubLink(web.url, "a-token", monotonic=clock)
    yield link
    link.close()


async def test_it_asks_with_the_server_s_own_token(hub: HubLink, web: StandInWeb) -> None:
    says = await hub.look()
    assert says.reachable
    assert says.simulated
    assert says.session is not None
    assert (web.asked, web.tokens) == ([("GET", "/api/me")], {"token a-token"})


async def test_many_questions_at_once_and_within_5_seconds_are_one(hub: HubLink, web: StandInWeb, clock: Clock) -> None:
    await asyncio.gather(*(hub.look() for _ in range(20)))
    clock.now += CACHE_SECONDS - 0.1
    await hub.look()
    assert len(web.asked) == 1
    clock.now += 0.2
    await hub.look()
    assert len(web.asked) == 2


async def test_a_slow_hub_holds_nobody_up_for_more_than_3_seconds(hub: HubLink, web: StandInWeb) -> None:
    web.delay_seconds = 5
    started = time.monotonic()
    says = await hub.look()
    assert time.monotonic() - started < 4
    assert (says.reachable, says.words) == (False, "it does not answer")


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b"null", b"\xff\xfe", b"x" * 2_000_000])
async def test_an_answer_that_is_none_counts_as_not_reachable(hub: HubLink, web: StandInWeb, body: bytes) -> None:
    web.me = body
    says = await hub.look()
    assert not says.reachable
    assert says.words


async def test_when_the_hub_falls_silent_names_and_times_stay_known(
    hub: HubLink, web: StandInWeb, clock: Clock
) -> None:
    await hub.look()
    web.me = None
    clock.now += CACHE_SECONDS
    says = await hub.look()
    assert says.words == "it does not accept this server's token"
    assert says.session is not None
    assert says.session.server == "gpu05"


async def test_a_hub_without_pages_is_not_asked() -> None:
    hub = HubLink("", "a-token")
    assert not (await hub.look()).reachable
    assert not (await hub.ask("keep")).done
    hub.close()


async def test_keep_is_passed_on_and_the_next_look_is_fresh(hub: HubLink, web: StandInWeb) -> None:
    await hub.look()
    web.results["keep"] = {"state": "done", "result": "It stays yours."}
    outcome = await hub.ask("keep")
    assert (outcome.done, outcome.words) == (True, "It stays yours.")
    await hub.look()
    assert web.asked == [("GET", "/api/me"), ("POST", "/api/me/keep"), ("GET", "/api/me")]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"state": "refused", "result": "You kept it once already."}, "You kept it once already."),
        ({"state": "asked", "result": ""}, "has not answered yet"),
        (None, "You may not do this."),
    ],
)
async def test_a_refusal_keeps_its_words(
    hub: HubLink, web: StandInWeb, result: dict[str, str] | None, words: str
) -> None:
    if result is not None:
        web.results["keep"] = result
    outcome = await hub.ask("keep")
    assert not outcome.done
    assert words in outcome.words


async def test_asking_a_hub_that_is_away_says_so() -> None:
    hub = HubLink("http://127.0.0.1:1/services/web/", "a-token")
    outcome = await hub.ask("extend")
    assert not outcome.done
    assert "Try again" in outcome.words
    hub.close()
