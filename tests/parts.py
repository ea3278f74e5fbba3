"""Values and stand-ins that several tests build on."""

from __future__ import annotations

import asyncio
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from idl_hub.db import Database
from idl_hub.gpus.placement import Choice, ChosenGPU, NoGPU, Rules, choose
from idl_hub.gpus.reading import GPU, HEALTHY, Health, HealthState, ServerReading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

NOW = 1_000_000.0
SICK = Health(HealthState.LOST, 15, "the GPU fell off the bus")


def card(index: int, **told: Any) -> GPU:
    """Return a healthy, idle GTX 1080 Ti; `told` overrides."""
    values: dict[str, Any] = {
        "uuid": f"GPU-{index}",
        "index": index,
        "health": HEALTHY,
        "name": "NVIDIA GeForce GTX 1080 Ti",
        "memory_total_bytes": 11264 * 2**20,
        "memory_used_bytes": 0,
        "utilization_ratio": 0.0,
        "temperature_celsius": 30,
        "processes": (),
    }
    return GPU(**(values | told))


def server(*gpus: GPU, name: str = "gpu1", age_seconds: float = 1, health: Health = HEALTHY) -> ServerReading:
    """Return a server's reading taken so long before `NOW`."""
    return ServerReading(name, NOW - age_seconds, health, gpus)


def lowest_free(gpu_count: int, cards: int = 8, host: str = "gpu1") -> Callable[[Mapping[str, str]], Choice | NoGPU]:
    """Return a way to choose among idle cards, as `Ledger.acquire` wants it."""
    readings = [server(*(card(index) for index in range(cards)), name=host)]
    return lambda holders: choose(readings, holders, gpu_count, Rules(), NOW)


def exactly(*gpus: int, host: str = "gpu1") -> Callable[[Mapping[str, str]], Choice | NoGPU]:
    """Return a way to choose that insists on these cards, whoever holds them."""
    return lambda _: Choice(host, tuple(ChosenGPU(f"GPU-{index}", index, "GTX") for index in gpus), "asked for")


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'idl_hub.sqlite'}"


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Yield a database brought up to date, closed afterwards."""
    with closing(Database(url)) as database:
        database.upgrade()
        yield database


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something is true that sends no event; raise TimeoutError when it is not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
