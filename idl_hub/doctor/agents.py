"""Looks at the agent of a server, and at the GPUs that it shows."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from idl_hub.doctor import certificates
from idl_hub.doctor.look import DEPLOY, judge_clock
from idl_hub.gpus.fleet_agent import AgentClient

if TYPE_CHECKING:
    from idl_hub.doctor.look import Look
    from idl_hub.doctor.result import Found
    from idl_hub.gpus.reading import Disk, ServerReading
    from idl_hub.settings_servers import AgentSettings, ServerSettings

_READING_SECONDS = 5.0
_FULL_RATIO = 0.05
_PAGE = "agent-silent.md"
_GPU_PAGE = "gpu-sick.md"


async def look_at_agent(look: Look, server: ServerSettings, seen: dict[str, str], found: Found) -> None:
    """Look at its certificate, its readings, the GPUs, the disks, and the clock.

    Parameters
    ----------
    seen
        GPU UUID -> when it was last given out on this server, in words: those are expected to be there.
    """
    agent = server.agent
    if agent is None:
        found.facts.append("none: the server takes sessions without GPU")
        return
    if agent.url.startswith("https:"):
        await _certificate(agent, found)
    client = AgentClient(server.name, agent.url, agent.token_file, agent.ca_file)
    asking = asyncio.create_task(client.run())
    try:
        reading = await client.wait_first(_READING_SECONDS)
    except TimeoutError:
        found.fail(
            f"it gives no readings: {client.fault}; its GPUs are given to nobody",
            f"on {server.name}: `docker ps -a --filter name=idl-hub-agent`, `docker logs idl-hub-agent`; then "
            "`docker restart idl-hub-agent`",
            _PAGE,
        )
        return
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    await _clock(look, agent, found)
    judge_reading(found, reading, server, seen, look.settings.gpus.reading_max_age_seconds, time.time())


async def _certificate(agent: AgentSettings, found: Found) -> None:
    where = urlsplit(agent.url)
    with suppress(OSError, ValueError):  # the question that follows says why
        valid = await certificates.shown_at(where.hostname or "", where.port or 443)
        certificates.judge(found, f"the agent at {where.netloc}", valid, DEPLOY)


async def _clock(look: Look, agent: AgentSettings, found: Found) -> None:
    """Ask its page that is open to all, for the time in the answer."""
    tls = ssl.create_default_context(cafile=agent.ca_file) if agent.ca_file else True
    before = time.time()
    with suppress(aiohttp.ClientError, OSError):  # it has just answered; its readings count, not this
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as client,
            client.get(f"{agent.url.rstrip('/')}/health") as answer,
        ):
            judge_clock(found, answer.headers, look.settings.gpus.reading_max_age_seconds, before)


def judge_reading(
    found: Found,
    reading: ServerReading,
    server: ServerSettings,
    seen: dict[str, str],
    max_age_seconds: float,
    now: float,
) -> None:
    """Say what a reading shows: which GPUs there are, which are sick or gone, whether disks are full."""
    age_seconds = now - reading.taken_at
    if age_seconds > max_age_seconds:
        found.fail(
            f"its newest reading is {age_seconds:.0f} s old: its GPUs are given to nobody",
            f"on {server.name}: `docker restart idl-hub-agent`",
            _PAGE,
        )
    if not reading.health.ok:
        found.fail(
            f"no GPU there answers: {reading.health.words or reading.health.state.value}",
            f"on {server.name}: `nvidia-smi`; if that fails as well, restart the server",
            _GPU_PAGE,
        )
    for gpu in reading.gpus:
        if not gpu.health.ok:
            found.fail(
                f"GPU {gpu.index} ({gpu.uuid or 'it never told its UUID'}) is sick: "
                f"{gpu.health.words or gpu.health.state.value}",
                f"on {server.name}: `nvidia-smi -q -i {gpu.index}`; restart the server when its sessions have ended "
                f"(`idl-hub drain {server.name}`)",
                _GPU_PAGE,
            )
    _judge_inventory(found, reading, server, seen)
    for disk in reading.figures.disks if reading.figures else ():
        _judge_disk(found, disk, server.name)
    simulated = "simulated " if reading.simulated else ""
    kinds = ", ".join(sorted({gpu.name or "unknown" for gpu in reading.gpus}))
    found.facts.insert(0, f"{len(reading.gpus)} {simulated}GPUs{f' ({kinds})' if kinds else ''}")
    found.versions["kind of GPU"] = kinds
    if reading.driver_version:
        found.versions["NVIDIA driver"] = reading.driver_version


def _judge_inventory(found: Found, reading: ServerReading, server: ServerSettings, seen: dict[str, str]) -> None:
    if server.gpus is not None and len(reading.gpus) != server.gpus:
        found.fail(
            f"it shows {len(reading.gpus)} GPUs, and the settings say that it has {server.gpus}",
            f"on {server.name}: `lspci -d 10de:`, `dmesg | grep -i -e nvrm -e xid`; a card that fell off the bus comes "
            "back with a cold start",
            _GPU_PAGE,
        )
    there = {gpu.uuid for gpu in reading.gpus}
    for uuid, when in seen.items():
        if uuid not in there:
            found.warn(
                f"the GPU {uuid} was given out there at {when} and is not there any more",
                "if it was not taken out on purpose, look for it: `lspci -d 10de:`, `dmesg | grep -i nvrm`",
                _GPU_PAGE,
            )


def _judge_disk(found: Found, disk: Disk, server: str) -> None:
    if disk.total_bytes is None or disk.free_bytes is None:
        found.fail(f"its disk {disk.path} does not answer", f"on {server}: `df -h {disk.path}`, `dmesg | tail`", _PAGE)
    elif disk.free_bytes < _FULL_RATIO * disk.total_bytes:
        found.warn(
            f"its disk {disk.path} has {disk.free_bytes / 2**30:.1f} GiB left",
            "`idl-hub images prune` takes old images away; `docker system df` on the server says what is left",
            "server-disk-full.md",
        )
    else:
        found.facts.append(f"{disk.free_bytes / 2**30:.0f} GiB free on {disk.path}")
