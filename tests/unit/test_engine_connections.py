"""Ways to an engine: whoever takes one that hangs or is closed, the hub's loop goes on and says why."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from idl_hub.settings_servers import EngineSettings
from idl_hub.spawners import engine_pull
from idl_hub.spawners.engine import Engine
from idl_hub.spawners.host import HostError

if TYPE_CHECKING:
    from pathlib import Path

_CONNECTING_SECONDS = 4
_DEADLINE_SECONDS = 20


async def test_a_look_that_fails_does_not_hold_up_the_loop_while_another_call_still_connects(tmp_path: Path) -> None:
    arrived: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    socket = tmp_path / "engine.sock"
    await asyncio.start_unix_server(lambda _, writer: arrived.put_nowait(writer), socket)
    engine = Engine("gpu01", EngineSettings(url=f"unix://{socket}"), threads=1, timeout_seconds=_CONNECTING_SECONDS)
    async with asyncio.timeout(_DEADLINE_SECONDS):
        looking = asyncio.create_task(engine.units())
        look_connection = await arrived.get()
        calling = asyncio.create_task(engine.call("version"))
        call_connection = await arrived.get()
        look_connection.close()
        began = time.monotonic()
        with pytest.raises(HostError):
            await looking
        assert time.monotonic() - began < _CONNECTING_SECONDS / 2
        call_connection.close()
        with pytest.raises(HostError):
            await calling
    engine.close()


@pytest.mark.filterwarnings("ignore:docker-credential")  # docker-py says it as well
async def test_a_pull_without_the_keeper_of_its_password_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"credHelpers": {"127.0.0.1:5000": "that-nobody-has"}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    engine = EngineSettings(url=f"unix://{tmp_path}/engine.sock")
    with pytest.raises(HostError, match=r"docker login.*cannot be used.*that-nobody-has"):
        await anext(engine_pull.pull("gpu01", engine, "127.0.0.1:5000/idl-hub/student:latest", 1))
