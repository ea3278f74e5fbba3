"""The hub asks agents over real sockets: what is no reading never counts, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import RunningAgent, write_certificate, write_private
from hostile_agents import Agents, body_of, hostile_answers, http, saying, silent, well
from parts import until

from idl_hub.gpus import fleet_agent
from idl_hub.gpus.fleet import Fleet
from idl_hub.gpus.fleet_agent import AgentClient
from idl_hub.gpus.placement import Choice, NoGPU, Rules, State
from idl_hub.gpus.simulator import Simulator
from idl_hub.gpus.wire import MAX_BYTES

pytest_plugins = ["simulated_gpus"]


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    with Agents(tmp_path) as running:
        yield running


@asynccontextmanager
async def asking(*clients: AgentClient) -> Any:
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -- a good agent -----------------------------------------------------------------------------------------


async def test_a_real_agent_is_read_with_its_token_and_certificate(
    simulator: Simulator, simulator_library: Path, tmp_path: Path
) -> None:
    with RunningAgent(simulator, simulator_library, tmp_path, server="gpu05") as agent:
        client = AgentClient("gpu05", agent.url, agent.token_file, agent.certificate, period=0.2)
        async with asking(client):
            reading = await client.wait_first(20)
            assert (reading.server, len(reading.gpus), client.fault) == ("gpu05", 8, "")
            assert reading.figures is not None
            assert abs(reading.taken_at - time.time()) < 5
            first = reading.taken_at
            await until(lambda: (newest := client.latest()) is not None and newest.taken_at > first + 1)


async def test_one_connection_serves_for_many_questions(
    simulator: Simulator, simulator_library: Path, tmp_path: Path
) -> None:
    with RunningAgent(simulator, simulator_library, tmp_path) as agent:
        client = AgentClient("gpu01", agent.url, agent.token_file, agent.certificate, period=0.05)
        async with asking(client):
            await client.wait_first(20)
            session = client._session
            assert session is not None
            first = client.latest()
            await until(lambda: client.latest() is not first)
            assert client._session is session
            assert session.connector is not None
            assert len(session.connector._conns) <= 1


async def test_the_clock_of_an_agent_does_not_matter(agents: Agents) -> None:
    started = time.time()
    moments = iter(range(10**6))
    url = agents.serve(saying(lambda: http(body_of("gpu01", taken_at=86400.0 + next(moments), age_seconds=2.0))))
    client = agents.client("gpu01", url)
    async with asking(client):
        reading = await client.wait_first(10)
        assert started - 2.1 <= reading.taken_at <= time.time() - 1.9


async def test_a_reading_that_stands_still_grows_old(agents: Agents) -> None:
    url = agents.serve(saying(lambda: http(body_of("gpu01", taken_at=1000.0))))
    client = agents.client("gpu01", url)
    fleet = Fleet({"gpu01": client}, Rules(reading_max_age_seconds=1.0))
    async with asking(client):
        await client.wait_first(10)
        [standing] = fleet.standings({})
        assert standing.state is State.FREE
        await until(lambda: fleet.standings({})[0].state is State.UNKNOWN)
        assert isinstance(fleet.choose({}, 1, frozenset({"gpu01"})), NoGPU)


async def test_an_agent_that_comes_back_is_believed_again(agents: Agents) -> None:
    answers = [http(b"", "503 Service Unavailable")] * 3
    url = agents.serve(saying(lambda: answers.pop() if answers else http(body_of("gpu01"))))
    client = agents.client("gpu01", url)
    async with asking(client):
        await until(lambda: client.fault == "it runs, but has no reading yet")
        await client.wait_first(10)
        assert client.fault == ""


async def test_a_replaced_token_is_read_again_without_a_restart(agents: Agents, tmp_path: Path) -> None:
    token_file = write_private(tmp_path / "wrong", b"w" * 40)
    client = agents.client("gpu01", agents.serve(well("gpu01")), token_file=token_file)
    async with asking(client):
        await until(lambda: client.fault.startswith("it refuses the token in "))
        assert client.latest() is None
        write_private(token_file, agents.token_file.read_bytes())
        await client.wait_first(10)


# -- the others -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("silent", "it did not answer within"),
        ("garbage", "it cannot be reached"),
        ("truncated", "it cannot be reached"),
        ("cut-json", "its answer is no reading"),
        ("huge-declared", "its answer is longer than"),
        ("huge-chunked", "its answer is longer than"),
        ("endless-headers", ""),
        ("endless-continue", "it did not answer within"),
        ("drip-body", "it did not answer within"),
        ("drip-headers", "it did not answer within"),
        ("nan", "NaN, which is no number"),
        ("types", "reading.gpus[0].index must be a whole number"),
        ("not-a-reading", "has other keys than it should"),
        ("deep", "no JSON"),
        ("gzip", "its answer is"),
        ("error", "it answers with HTTP status 500"),
        ("other-name", "calls itself 'somebody-else'"),
    ],
)
async def test_what_is_no_reading_is_none_and_the_fault_is_named(agents: Agents, name: str, fault: str) -> None:
    client = agents.client(name, agents.serve(hostile_answers()[name]))
    async with asking(client):
        await until(lambda: client.fault != "it was not asked yet")
        assert fault in client.fault
        assert client.fault
        assert client.latest() is None


def test_every_hostile_answer_is_tried(request: pytest.FixtureRequest) -> None:
    marks = test_what_is_no_reading_is_none_and_the_fault_is_named.pytestmark
    assert {case[0] for case in marks[0].args[1]} == hostile_answers().keys()


async def test_a_redirect_is_not_followed_and_takes_no_token_elsewhere(agents: Agents) -> None:
    target = agents.serve(well("gpu01"))
    url = agents.serve(saying(lambda: http(b"", "302 Found", f"Location: {target}/readings\r\n")))
    client = agents.client("gpu01", url)
    async with asking(client):
        await until(lambda: "HTTP status 302" in client.fault)
    assert agents.connections[int(target.rpartition(":")[2])] == 0
    assert client.latest() is None


async def test_a_certificate_of_somebody_else_gets_neither_belief_nor_token(agents: Agents, tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(10))

    (tmp_path / "other").mkdir()
    other, _ = write_certificate(tmp_path / "other")
    client = agents.client("gpu01", agents.serve(listen), ca_file=other)
    async with asking(client):
        await until(lambda: client.fault.startswith("TLS with it fails"))
    assert client.latest() is None
    assert not any(asked)


async def test_a_certificate_for_another_address_is_refused(agents: Agents, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Agents(tmp_path / "other") as elsewhere:
        url = elsewhere.serve(well("gpu01")).replace("127.0.0.1", "localhost")
        client = elsewhere.client("gpu01", url)
        async with asking(client):
            await until(lambda: client.fault.startswith("TLS with it fails"))
        assert client.latest() is None


async def test_a_server_that_never_ends_the_tls_handshake_costs_one_deadline(agents: Agents) -> None:
    client = agents.client("gpu01", agents.serve(silent, tls=False))
    async with asking(client):
        await until(lambda: "within 1 s" in client.fault)


async def test_an_agent_that_is_not_there_is_named_as_such(agents: Agents) -> None:
    client = agents.client("gpu01", "https://127.0.0.1:9")
    async with asking(client):
        await until(lambda: "cannot be reached" in client.fault)


async def test_files_that_are_missing_are_a_fault_and_no_crash(agents: Agents, tmp_path: Path) -> None:
    client = agents.client("gpu01", agents.serve(well("gpu01")), token_file=tmp_path / "none")
    async with asking(client):
        await until(lambda: "the file of its token or its authority cannot be used" in client.fault)
        client._token_file = agents.token_file
        await client.wait_first(10)


async def test_among_all_hostile_agents_at_once_the_good_ones_flow_and_alone_are_chosen(agents: Agents) -> None:
    hostile = {name: agents.client(name, agents.serve(answer)) for name, answer in hostile_answers().items()}
    good = {name: agents.client(name, agents.serve(well(name))) for name in ("gpu01", "gpu02")}
    fleet = Fleet(hostile | good, Rules())
    running = asyncio.create_task(fleet.run())
    gaps: list[float] = []
    try:
        await asyncio.gather(*(client.wait_first(20) for client in good.values()))
        for _ in range(20):
            before = {name: client.latest() for name, client in good.items()}
            start = time.monotonic()
            await until(lambda before=before: all(good[name].latest() is not old for name, old in before.items()))
            gaps.append(time.monotonic() - start)
        assert {server.server for server in fleet.servers()} == good.keys()
        choice = fleet.choose({"GPU-gpu01": "anna"}, 1, frozenset(fleet.names))
        assert isinstance(choice, Choice)
        assert choice.server == "gpu02"
        await until(lambda: fleet.faults().keys() == hostile.keys())
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    # Each of the hostile ones uses up its deadline of a second: one after the other it would be many.
    assert max(gaps) < 3, gaps


def mutated(body: bytes, chance: random.Random) -> bytes:
    """Return the body with one thing wrong somewhere."""
    if chance.random() < 0.4:
        cut = chance.randrange(len(body))
        return body[:cut] + chance.choice([b"", b"\xff", b'"', b"}", b"0" * 400]) + body[cut + chance.randrange(3) :]
    whole = json.loads(body)
    odd = [None, True, -1, 1e308, 10**400, "", "\u202e", "x" * 5000, [], {}, [[]], float("nan"), float("inf"), -0.5]
    part: Any = whole
    while True:
        key = chance.choice(sorted(part) if isinstance(part, dict) else range(len(part)))
        if not isinstance(part[key], dict | list) or not part[key] or chance.random() < 0.2:
            break
        part = part[key]
    if isinstance(part, dict) and chance.random() < 0.2:
        del part[key]
    else:
        part[key] = chance.choice(odd)
    return json.dumps(whole).encode()


async def test_whatever_one_agent_makes_up_placement_gets_whole_readings_or_none(agents: Agents) -> None:
    chance = random.Random(7)
    said: list[bytes] = []

    def make() -> bytes:
        said.append(mutated(body_of("gpu01"), chance))
        return http(said[-1])

    client = agents.client("gpu01", agents.serve(saying(make)), period=0.0)
    fleet = Fleet({"gpu01": client}, Rules())
    hosts = frozenset({"gpu01"})
    async with asking(client):
        while len(said) < 400:
            count = len(said)
            await until(lambda count=count: len(said) > count)
            for server in fleet.servers():
                assert server.server == "gpu01"
                for gpu in server.gpus:
                    assert isinstance(gpu.index, int)
                    assert gpu.utilization_ratio is None or 0 <= gpu.utilization_ratio <= 1
            found = fleet.choose({}, 1, hosts)
            assert isinstance(found, Choice | NoGPU)
            if isinstance(found, Choice):
                assert found.gpus[0].uuid


async def test_a_long_answer_is_checked_outside_of_the_loop(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = json.loads(body_of("gpu01"))
    process = {"pid": 1, "memory_used_bytes": 1, "name": "x" * 6, "origin": "outside", "container_id": None, "uid": 0}
    process["pid_in_container"] = None
    gpu = whole["reading"]["gpus"][0]
    whole["reading"]["gpus"] = [
        gpu | {"uuid": f"GPU-{n}", "index": n, "processes": [process | {"pid": m + 1} for m in range(128)]}
        for n in range(64)
    ]
    body = json.dumps(whole, separators=(",", ":")).encode()
    assert MAX_BYTES * 0.8 < len(body) <= MAX_BYTES
    threads: list[int] = []

    def decode(body: bytes, received_at: float) -> Any:
        threads.append(threading.get_ident())
        return original(body, received_at)

    original = fleet_agent._decode
    monkeypatch.setattr(fleet_agent, "_decode", decode)
    client = agents.client("gpu01", agents.serve(saying(lambda: http(body))), deadline=10.0)
    async with asking(client):
        reading = await client.wait_first(20)
    assert len(reading.gpus) == 64
    assert threading.get_ident() not in threads
