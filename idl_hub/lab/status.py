"""What the browser is told: the hub's word and NVML's in one answer."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from idl_hub.lab import holders, home, kills
from idl_hub.lab.hub import HubLink, HubSays
from idl_hub.lab.session import Card, Session
from idl_hub.lab.watch import GPUWatch, Look, gpus_of_this_server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from idl_hub.gpus.reading import GPU
    from idl_hub.lab.holders import Holder
    from idl_hub.lab.home import HomeLook
    from idl_hub.lab.kills import Killed


@dataclass(frozen=True, slots=True)
class Status:
    """Everything the browser needs to know."""

    has_gpu: bool
    hub: HubSays
    look: Look
    holders: tuple[Holder, ...] | None = None
    """None: nobody asked."""
    killed: Killed | None = None
    home: HomeLook | None = None
    """None: its disk has not answered yet."""

    def as_json(self, now: float) -> dict[str, Any]:
        """Return the answer for the browser; `now` is the clock by which its times are to be read."""
        session = self.hub.session or Session()
        reading = self.look.reading
        return {
            "now": now,
            "has_gpu": self.has_gpu,
            "simulated": bool(reading.simulated if reading is not None else self.hub.simulated),
            "hub": {"reachable": self.hub.reachable, "words": self.hub.words},
            "gpus": [asdict(card) for card in merge(session.cards, reading.gpus if reading is not None else ())],
            "server": session.server,
            "started_at": session.started_at,
            "idle_seconds": session.idle_seconds,
            "ends_at": session.ends_at,
            "can_extend": session.can_extend,
            "notice": asdict(session.notice) if session.notice else None,
            "lost": self.look.lost,
            "killed": asdict(self.killed) if self.killed else None,
            "home": asdict(self.home) if self.home else None,
            "holders": None if self.holders is None else [asdict(holder) for holder in self.holders],
        }


def merge(cards: Sequence[Card], gpus: Sequence[GPU]) -> tuple[Card, ...]:
    """Return the session's GPUs: the hub's names, with this server's own readings, which are newer."""
    read = {gpu.uuid: gpu for gpu in gpus if gpu.uuid}
    # The indices that NVML gives in a container count only what the container sees.
    known = cards or tuple(Card(uuid) for uuid in read)
    return tuple(_newer(card, read.get(card.uuid)) for card in known)


def _newer(card: Card, gpu: GPU | None) -> Card:
    if gpu is None or not gpu.health.ok:
        return card
    return replace(
        card,
        name=gpu.name or card.name,
        utilization_ratio=gpu.utilization_ratio,
        memory_used_bytes=gpu.memory_used_bytes,
        memory_total_bytes=gpu.memory_total_bytes,
        temperature_celsius=gpu.temperature_celsius,
    )


def share_out(found: tuple[Holder, ...], cards: Sequence[Card]) -> tuple[Holder, ...]:
    """Return the holders; one that is alone holds all there is, also where nobody counts per process."""
    used = [card.memory_used_bytes for card in cards if card.memory_used_bytes is not None]
    if len(found) != 1 or found[0].memory_used_bytes is not None or not used:
        return found
    return (replace(found[0], memory_used_bytes=sum(used)),)


class Reporter:
    """Answers the browser's questions about this server.

    Parameters
    ----------
    environment
        As the hub's spawner set it.
    kernel_manager, session_manager
        The Jupyter server's own.
    """

    def __init__(self, environment: Mapping[str, str], kernel_manager: Any, session_manager: Any) -> None:
        self._kernels = kernel_manager
        self._sessions = session_manager
        self._uuids = gpus_of_this_server(environment.get("NVIDIA_VISIBLE_DEVICES", ""))
        self.watch = GPUWatch(self._uuids)
        self.kills = kills.KillWatch()
        self.home = home.for_environment(environment)
        self.hub = HubLink(environment.get("IDLHUB_WEB_URL", ""), environment.get("JUPYTERHUB_API_TOKEN", ""))

    async def status(self, *, details: bool) -> Status:
        """Look at hub, GPU and home at the same time, and with `details` at who holds the GPU's memory."""
        says, look, home_look = await asyncio.gather(self.hub.look(), self.watch.look(), self.home.look())
        status = Status(bool(self._uuids), says, look, killed=await self._killed(), home=home_look)
        return replace(status, holders=await self._holders(status)) if details else status

    async def _killed(self) -> Killed | None:
        if not self.kills.has_news():
            return None
        return self.kills.look(await kills.killed_kernels(self._kernels, self._sessions))

    async def _holders(self, status: Status) -> tuple[Holder, ...]:
        if not self._uuids:
            return ()
        session = status.hub.session or Session()
        reading = status.look.reading
        kernels = await holders.running_kernels(self._kernels, self._sessions)
        uses = await asyncio.to_thread(holders.find_uses, session.uses, reading)
        found = await asyncio.to_thread(holders.hold, uses, kernels)
        return share_out(found, merge(session.cards, reading.gpus if reading is not None else ()))

    async def shut_down_kernel(self, kernel_id: str) -> bool:
        """Shut a kernel down, as JupyterLab does; return whether there was one."""
        if kernel_id not in self._kernels:
            return False
        sessions = [each["id"] for each in await self._sessions.list_sessions() if each["kernel"]["id"] == kernel_id]
        for session_id in sessions:
            await self._sessions.delete_session(session_id)
        if kernel_id in self._kernels:
            await self._kernels.shutdown_kernel(kernel_id)
        return True

    def close(self) -> None:
        """Let go of threads and connections."""
        self.watch.close()
        self.hub.close()


def for_this_process(kernel_manager: Any, session_manager: Any) -> Reporter:
    """Return the reporter of the server that runs in this process."""
    return Reporter(os.environ, kernel_manager, session_manager)


def now() -> float:
    """Return this server's clock: seconds since 1970."""
    return time.time()
