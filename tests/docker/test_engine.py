"""One engine's client against the real engine, and against ones that hang or are not there."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import uuid
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from docker.errors import APIError, ImageNotFound
from hubs import docker
from light import light_image

from idl_hub.settings_servers import EngineSettings
from idl_hub.spawners.engine import GPUS_LABEL, HUB_LABEL, LEASE_LABEL, Engine
from idl_hub.spawners.host import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET = "unix:///var/run/docker.sock"


def at(url: str) -> EngineSettings:
    """Return an engine without certificates, which settings allow on a socket only."""
    return EngineSettings.model_construct(url=url, ca_file=None, certificate_file=None, key_file=None)


@pytest.fixture
def hub_id() -> Iterator[str]:
    """A made-up hub; whatever carries its label is removed in the end."""
    made_up = f"test{uuid.uuid4().hex[:8]}"
    yield made_up
    if left := docker("ps", "--all", "--quiet", "--filter", f"label={HUB_LABEL}={made_up}").split():
        docker("rm", "--force", *left)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with closing(Engine("gpu1", at(SOCKET), threads=4, timeout_seconds=20, stop_timeout_seconds=1)) as engine:
        yield engine


async def create(engine: Engine, hub_id: str, lease_id: str, gpus: str = "GPU-1,GPU-2") -> str:
    created = await engine.call(
        "create_container",
        image=light_image(),
        command=["sleep", "600"],
        labels={LEASE_LABEL: lease_id, HUB_LABEL: hub_id, GPUS_LABEL: gpus},
        host_config=engine.client.create_host_config(init=True),
        lease_id=lease_id,
    )
    return str(created["Id"])


async def units(engine: Engine, hub_id: str) -> dict[str, Any]:
    return {unit.id: unit for unit in await engine.units() if unit.hub_id == hub_id}


def there(container_id: str) -> bool:
    return container_id in docker("ps", "--all", "--quiet", "--no-trunc")


async def test_containers_are_listed_by_their_labels_with_whether_they_run(engine: Engine, hub_id: str) -> None:
    container = await create(engine, hub_id, "lease1")
    unit = (await units(engine, hub_id))[container]
    assert (unit.lease_id, unit.gpu_uuids, unit.running) == ("lease1", ("GPU-1", "GPU-2"), False)
    await engine.call("start", container)
    unit = (await units(engine, hub_id))[container]
    assert (unit.running, unit.ending) == (True, "")
    await engine.call("pause", container)
    assert (await units(engine, hub_id))[container].running
    await engine.call("unpause", container)
    await engine.call("kill", container)
    await engine.call("wait", container)
    unit = (await units(engine, hub_id))[container]
    assert not unit.running
    assert unit.ending == "its container was killed (exit code 137)"


async def test_a_session_without_gpu_holds_none(engine: Engine, hub_id: str) -> None:
    container = await create(engine, hub_id, "lease1", gpus="")
    assert (await units(engine, hub_id))[container].gpu_uuids == ()


async def test_containers_without_the_label_of_a_lease_are_not_listed(engine: Engine, hub_id: str) -> None:
    foreign = docker("create", "--label", f"{HUB_LABEL}={hub_id}", light_image(), "sleep", "600")
    assert foreign not in {unit.id for unit in await engine.units()}


async def test_a_container_is_shown_to_its_own_lease_only(engine: Engine, hub_id: str) -> None:
    container = await create(engine, hub_id, "lease1")
    found = await engine.inspect(container, "lease1")
    assert found is not None
    assert found["Id"] == container
    assert await engine.inspect(container, "lease2") is None
    assert await engine.inspect("0" * 64, "lease1") is None


async def test_removing_ends_a_running_container_and_returns_when_it_is_gone(engine: Engine, hub_id: str) -> None:
    container = await create(engine, hub_id, "lease1")
    await engine.call("start", container)
    await engine.remove(container, "lease1")
    assert not there(container)


@pytest.mark.parametrize("state", ["created", "paused", "ended"])
async def test_removing_works_in_every_state(engine: Engine, hub_id: str, state: str) -> None:
    container = await create(engine, hub_id, "lease1")
    if state != "created":
        await engine.call("start", container)
        await engine.call("pause" if state == "paused" else "kill", container)
    await engine.remove(container, "lease1")
    assert not there(container)


async def test_a_container_of_another_lease_or_of_somebody_else_is_never_removed(engine: Engine, hub_id: str) -> None:
    other = await create(engine, hub_id, "lease2")
    foreign = docker("create", "--label", f"{HUB_LABEL}={hub_id}", light_image(), "sleep", "600")
    await engine.remove(other, "lease1")
    await engine.remove(foreign, "lease1")
    assert there(other)
    assert there(foreign)


async def test_removing_what_is_gone_is_fine_also_for_many_at_once(engine: Engine, hub_id: str) -> None:
    container = await create(engine, hub_id, "lease1")
    await engine.call("start", container)
    await asyncio.gather(*(engine.remove(container, "lease1") for _ in range(4)))
    await engine.remove(container, "lease1")
    assert not there(container)


async def test_a_create_that_is_cancelled_is_settled_and_leaves_nothing(engine: Engine, hub_id: str) -> None:
    await engine.units()  # the client is connected
    for number in range(5):
        lease_id = f"lease{number}"
        creating = asyncio.ensure_future(create(engine, hub_id, lease_id))
        await asyncio.sleep(number / 100)
        creating.cancel()
        with suppress(asyncio.CancelledError):
            await creating
        await engine.settle(lease_id)
        for unit in (await units(engine, hub_id)).values():
            await engine.remove(unit.id, lease_id)
        assert await units(engine, hub_id) == {}
    await asyncio.sleep(0.5)  # nothing comes late either
    assert await units(engine, hub_id) == {}


async def test_what_the_engine_refuses_is_told_as_its_refusal(engine: Engine) -> None:
    with pytest.raises(ImageNotFound):
        await engine.call("inspect_image", "idl-hub/there-is-no-such-image")
    with pytest.raises(APIError, match="Invalid container name"):
        await engine.call("create_container", image=light_image(), name="no name!")


# -- engines that do not answer ---------------------------------------------------------------------------


@pytest.fixture
def hung() -> Iterator[str]:
    """Address of a server that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listening:
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"


async def test_a_hung_engine_ends_in_an_error_within_its_deadline(hung: str) -> None:
    with closing(Engine("gpu1", at(hung), threads=2, timeout_seconds=0.5)) as engine:
        began = time.monotonic()
        for call in (engine.units(), engine.inspect("c1", "l1"), engine.remove("c1", "l1")):
            with pytest.raises(HostError, match="The Docker engine of gpu1 does not answer"):
                await call
        assert time.monotonic() - began < 3 * (0.5 + 1)


async def test_more_calls_than_threads_on_a_hung_engine_all_end(hung: str) -> None:
    with closing(Engine("gpu1", at(hung), threads=1, timeout_seconds=0.5)) as engine:
        began = time.monotonic()
        ended = await asyncio.gather(*(engine.units() for _ in range(20)), return_exceptions=True)
        assert all(isinstance(fault, HostError) for fault in ended)
        assert time.monotonic() - began < 0.5 + 5 + 2


async def test_settling_with_a_hung_engine_ends_in_an_error(hung: str) -> None:
    with closing(Engine("gpu1", at(hung), threads=1, timeout_seconds=0.5)) as engine:
        calls = [asyncio.ensure_future(engine.call("version", lease_id="l1")) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(HostError, match="still busy with an earlier request"):
            await engine.settle("l1")
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_an_engine_that_is_not_there_ends_in_an_error_at_once(tmp_path: Any) -> None:
    engine = Engine("gpu1", at(f"unix://{tmp_path}/no.sock"), timeout_seconds=20)
    with closing(engine), pytest.raises(HostError, match="gpu1 does not answer"):
        await engine.units()


class Answers(BaseHTTPRequestHandler):
    """An engine that answers its version, and everything else with `status`."""

    status = 500

    def do_GET(self) -> None:
        version = self.path == "/version"
        body = json.dumps({"ApiVersion": "1.41"} if version else {"message": "out of order"}).encode()
        self.send_response(200 if version else self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("status", [500, 503, 400, 401, 403, 409])
async def test_an_engine_that_answers_with_an_error_proves_nothing(status: int) -> None:
    handler = type("Handler", (Answers,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with closing(Engine("gpu1", at(f"tcp://127.0.0.1:{server.server_port}"), timeout_seconds=5)) as engine:
            for call in (engine.units(), engine.inspect("c1", "l1"), engine.remove("c1", "l1")):
                with pytest.raises(HostError, match="out of order"):
                    await call
        server.shutdown()


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch, hung: str) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, hung.replace("tcp", "http"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answers,), {"status": 404})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with closing(Engine("gpu1", at(f"tcp://127.0.0.1:{server.server_port}"), timeout_seconds=5)) as engine:
            assert await engine.inspect("c1", "l1") is None
        server.shutdown()


async def heard(engine: Engine, lease_id: str, until: str) -> list[str]:
    """Return what is heard of a lease's containers up to an event, `connected` first."""
    kinds = []
    async for change in engine.changes():
        if change.lease_id in ("", lease_id):
            kinds.append(change.kind)
        if change.kind == until:
            break
    return kinds


async def test_an_engine_tells_when_our_containers_start_and_end(engine: Engine, hub_id: str) -> None:
    container = await create(engine, hub_id, f"lease-{hub_id}")
    async with asyncio.timeout(30):
        listening = asyncio.create_task(heard(engine, f"lease-{hub_id}", "start"))
        await asyncio.sleep(0)  # it connects while the container starts; asked for again until it was heard
        while not listening.done():
            await engine.call("restart", container, timeout=0)
            await asyncio.wait({listening}, timeout=1)
        assert engine.runs(container)
        listening = asyncio.create_task(heard(engine, f"lease-{hub_id}", "die"))
        while not listening.done():
            await engine.call("restart", container, timeout=0)
            await asyncio.wait({listening}, timeout=1)
    assert listening.result()[0] == "connected"


async def test_an_engine_that_breaks_off_its_events_ends_in_an_error(hung: str) -> None:
    with closing(Engine("gpu1", at(hung), timeout_seconds=0.5)) as engine, pytest.raises(HostError, match="gpu1"):
        await anext(aiter(engine.changes()))
