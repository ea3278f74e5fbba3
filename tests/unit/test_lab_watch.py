"""Looking at the GPU from inside a student's server."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from idl_hub.gpus.reading import GPU, HEALTHY, Health, HealthState, ServerReading
from idl_hub.lab.watch import START_NVML_AGAIN_SECONDS, SURE_AFTER_SECONDS, GPUWatch, why_lost

UUID = "GPU-a"
CARD = GPU(UUID, 0, HEALTHY, utilization_ratio=0.5)
FINE = ServerReading("here", 0.0, HEALTHY, (CARD,))
NO_NVML = ServerReading("here", 0.0, Health(HealthState.ERROR, 999, "Starting NVML failed: Unknown Error"), ())
SICK = ServerReading("here", 0.0, HEALTHY, (CARD.without_values(Health(HealthState.LOST, 15, "it fell off")),))
EMPTY = ServerReading("here", 0.0, HEALTHY, ())


class Card:
    """Stands for NVML, whose devices a test cannot take away: says what it is told to say."""

    def __init__(self) -> None:
        self.reading = FINE
        self.starts = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def close(self) -> None:
        self.starts += 1

    def read(self) -> ServerReading:
        self.may_answer.wait(30)
        return self.reading


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def card() -> Iterator[Card]:
    card = Card()
    yield card
    card.may_answer.set()


@pytest.mark.parametrize(
    ("reading", "words"),
    [(FINE, ""), (NO_NVML, "Unknown Error"), (SICK, "it fell off"), (EMPTY, "does not list it")],
)
def test_a_gpu_is_lost_when_nvml_does_not_start_or_does_not_know_it_or_finds_it_sick(
    reading: ServerReading, words: str
) -> None:
    why = why_lost([UUID], reading)
    assert words in why
    assert bool(why) == bool(words)


async def test_a_server_without_a_gpu_leaves_nvml_alone() -> None:
    def never() -> Card:
        raise AssertionError("NVML was started")

    look = await GPUWatch((), never).look()  # type: ignore[arg-type]
    assert (look.reading, look.lost) == (None, "")


async def test_a_loss_is_told_once_it_lasts_and_forgotten_when_it_heals(card: Card) -> None:
    clock = Clock()
    watch = GPUWatch((UUID,), lambda: card, clock)  # type: ignore[arg-type,return-value]
    assert (await watch.look()).reading == FINE

    async def later(seconds: float) -> str:
        clock.now += seconds
        return (await watch.look()).lost

    card.reading = NO_NVML
    assert await later(5) == ""
    assert "Unknown Error" in await later(SURE_AFTER_SECONDS)
    card.reading = FINE
    assert await later(5) == ""
    card.reading = SICK
    assert await later(5) == ""
    watch.close()


async def test_nvml_is_started_anew_every_30_seconds_because_an_open_device_stays_usable(card: Card) -> None:
    clock = Clock()
    watch = GPUWatch((UUID,), lambda: card, clock)  # type: ignore[arg-type,return-value]
    for _ in range(13):
        await watch.look()
        clock.now += START_NVML_AGAIN_SECONDS / 6
    assert card.starts == 3
    watch.close()


async def test_nobody_waits_for_nvml_that_hangs_and_it_is_told_after_a_while(card: Card) -> None:
    watch = GPUWatch((UUID,), lambda: card, hung_after_seconds=1.5)  # type: ignore[arg-type,return-value]
    card.may_answer.clear()
    started = time.monotonic()
    looks = await asyncio.gather(watch.look(), watch.look())
    assert time.monotonic() - started < 3
    assert looks[0].lost == ""
    assert "has not answered for" in (await watch.look()).lost
    card.may_answer.set()
    deadline = time.monotonic() + 10
    while (await watch.look()).reading != FINE:
        assert time.monotonic() < deadline
    watch.close()
