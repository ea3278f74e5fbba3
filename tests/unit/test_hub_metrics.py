"""The hub's own metrics: what Prometheus sees of line, GPUs, servers and homes, and what it may not see."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from documented_metrics import documented
from keeping import Engines, FakeHost
from ledger import Ledger
from parts import NOW, card, exactly, opened, server, sqlite_url

from idl_hub.gpus.fleet import Fleet
from idl_hub.gpus.leases import Phase
from idl_hub.gpus.line import Line
from idl_hub.gpus.placement import Closed, NoGPU, Rules
from idl_hub.gpus.reading import ServerReading
from idl_hub.homes.store import MARKER
from idl_hub.spawners.keeper import Keeper
from idl_hub.spawners.metrics import OLD_AFTER_SECONDS, SPAWN_REASONS, HubMetrics

ROOT = Path(__file__).resolve().parents[2]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Readings:
    """GPUs of a server as read at one moment."""

    reading: ServerReading

    def latest(self) -> ServerReading:
        return self.reading


@dataclass
class World:
    """A hub in small with two servers of two GPUs each, and its metrics."""

    leases: Ledger
    line: Line
    keeper: Keeper
    engines: Engines
    homes: Path
    closed: dict[str, str] = field(default_factory=dict)
    lacking: frozenset[str] = frozenset()
    alive: bool = True
    passed_seconds: float = 0.0

    def __post_init__(self) -> None:
        cards = [card(index) for index in range(4)]
        readings = {
            "gpu1": Readings(server(*cards[:2], name="gpu1")),
            "gpu2": Readings(server(*cards[2:], name="gpu2", age_seconds=60)),
        }
        self.metrics = HubMetrics(
            self.leases,
            self.line,
            self.keeper,
            Fleet(readings, Rules(), lambda: NOW),
            lambda: Closed(servers=self.closed),
            lambda: self.lacking,
            self.homes,
            lambda: self.alive,
            10,
            lambda: NOW,
            lambda: self.passed_seconds,
        )

    async def look(self) -> None:
        """Have hosts looked at, and tables and homes read."""
        for name in self.keeper.hosts:
            await self.keeper.look(name)
        await self.metrics.read()
        await self.metrics.look_at_homes(self.homes)

    def shown(self) -> Samples:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.metrics.collect()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.shown().get((name, frozenset(labels.items())))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    homes = tmp_path / "homes"
    homes.mkdir()
    (homes / MARKER).touch()
    with opened(sqlite_url(tmp_path)) as database:
        leases, engines = Ledger(database, lambda: NOW), Engines()
        hosts = {name: FakeHost(name, engines) for name in ("gpu1", "gpu2")}
        keeper = Keeper(leases, hosts, leases.read_hub_id())
        yield World(leases, Line(database, lambda: NOW - 90), keeper, engines, homes)


async def test_every_metric_is_documented_and_every_documented_metric_exists(world: World) -> None:
    await world.look()
    await world.leases.acquire("lease1", "anna", "", exactly(0, host="gpu1"))
    await world.metrics.read()
    found: dict[str, set[str]] = {}
    for name, labels in world.shown():
        found.setdefault(name, set()).update(dict(labels))
    assert found == documented("The hub")


async def test_who_holds_a_gpu_is_seen_but_not_their_name(world: World) -> None:
    await world.look()
    await world.leases.acquire("lease1", "anna", "second", exactly(1, host="gpu1"))
    await world.metrics.read()
    assert world.value("idlhub_gpu_reserved", server="gpu1", uuid="GPU-1", kind="session") == 1
    assert world.value("idlhub_gpus", server="gpu1", state="taken") == 1
    assert world.value("idlhub_gpus", server="gpu1", state="free") == 1
    assert world.value("idlhub_sessions", server="gpu1", kind="session", gpus="1") == 1
    assert world.value("idlhub_sessions", server="gpu2", kind="session", gpus="1") == 0
    assert world.value("idlhub_leases", phase="reserved") == 1
    everything = {text for _, labels in world.shown() for pair in labels for text in pair}
    assert not [text for text in everything if "anna" in text or "second" in text]


async def test_a_session_on_a_silent_server_shows_as_lost(world: World) -> None:
    await world.leases.acquire("lease1", "anna", "", exactly(1, host="gpu1"))
    await world.leases.advance("lease1", Phase.LOST)
    await world.metrics.read()
    assert (world.value("idlhub_leases", phase="lost"), world.value("idlhub_leases", phase="running")) == (1, 0)


async def test_the_line_tells_its_length_and_the_longest_wait(world: World) -> None:
    await world.look()
    assert (world.value("idlhub_queue_length"), world.value("idlhub_queue_oldest_wait_seconds")) == (0, 0)
    for number in (1, 2):
        await world.line.acquire(f"lease{number}", f"student{number}", "", 1, {}, lambda *_: NoGPU("none", ()))
    await world.look()
    assert (world.value("idlhub_queue_length"), world.value("idlhub_queue_oldest_wait_seconds")) == (2, 90)


async def test_what_the_tables_told_long_ago_is_not_shown_as_if_it_were_now(world: World) -> None:
    await world.look()
    world.passed_seconds = OLD_AFTER_SECONDS + 1
    assert world.value("idlhub_database_up") == 0
    names = {name for name, _ in world.shown()}
    assert not names & {"idlhub_queue_length", "idlhub_gpus", "idlhub_leases", "idlhub_sessions"}
    assert "idlhub_server_engine_up" in names


async def test_before_anything_was_read_nothing_is_invented(world: World) -> None:
    assert world.value("idlhub_database_up") == 0
    assert not {"idlhub_queue_length", "idlhub_homes_up"} & {name for name, _ in world.shown()}


async def test_servers_tell_engine_agent_image_and_whether_they_get_sessions(world: World) -> None:
    await world.look()
    world.closed["gpu1"] = "drained"
    world.lacking = frozenset({"gpu2"})
    up = {name: world.value(f"idlhub_server_{name}", server="gpu1") for name in ("engine_up", "in_service")}
    assert up == {"engine_up": 1, "in_service": 0}
    assert world.value("idlhub_server_in_service", server="gpu2") == 1
    assert [world.value("idlhub_server_agent_up", server=name) for name in ("gpu1", "gpu2")] == [1, 0]
    assert [world.value("idlhub_server_image_up_to_date", server=name) for name in ("gpu1", "gpu2")] == [1, 0]


async def test_a_server_whose_engine_was_never_heard_is_not_up(world: World) -> None:
    assert world.value("idlhub_server_engine_up", server="gpu1") == 0
    assert world.value("idlhub_server_in_service", server="gpu1") == 0


async def test_homes_that_are_not_mounted_have_no_size(world: World) -> None:
    await world.look()
    assert world.value("idlhub_homes_up") == 1
    assert (world.value("idlhub_homes_size_bytes") or 0) >= (world.value("idlhub_homes_free_bytes") or 0) > 0
    (world.homes / MARKER).unlink()
    await world.look()
    assert world.value("idlhub_homes_up") == 0
    assert world.value("idlhub_homes_free_bytes") is None


async def test_a_hub_that_looks_after_nothing_any_more_says_so(world: World) -> None:
    assert world.value("idlhub_hub_runtime_up") == 1
    world.alive = False
    assert world.value("idlhub_hub_runtime_up") == 0


def test_every_reason_to_refuse_a_start_is_counted_from_the_beginning() -> None:
    given = set()
    for file in sorted((ROOT / "idl_hub").glob("**/*.py")):
        if file.name != "refusal.py" and "from idl_hub.spawners.refusal import Refusal" not in file.read_text():
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
                reason = node.args[1]
                assert isinstance(reason, ast.Constant), f"{file}:{node.lineno}"
                given.add(reason.value)
    assert given == set(SPAWN_REASONS)
