"""Readings of the GPUs for processes beside the hub."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from idl_hub.gpus.figures import FigureReader
from idl_hub.gpus.fleet import Fleet
from idl_hub.gpus.nvml import Nvml
from idl_hub.gpus.placement import NOTHING_CLOSED, Closed, Rules
from idl_hub.gpus.sampler import Sampler

if TYPE_CHECKING:
    from idl_hub.gpus.placement import GPUStanding
    from idl_hub.gpus.reading import ServerReading
    from idl_hub.settings import Settings


class GPUs:
    """A fleet of one's own, read as the hub reads it."""

    def __init__(self, settings: Settings) -> None:
        wanted = settings.gpus
        if wanted.simulated:
            # The stand-in library reads where its state is from the environment, as it does in containers.
            os.environ["IDLHUB_SIMULATOR_STATE"] = str(wanted.simulator_state)
        library = wanted.simulator_library if wanted.simulated else None
        self._closed = NOTHING_CLOSED
        self._sampler = Sampler(Nvml(wanted.server_name, library=library), figures=FigureReader())
        self._fleet = Fleet(
            {wanted.server_name: self._sampler},
            Rules(wanted.busy_utilization_ratio, wanted.busy_memory, wanted.reading_max_age_seconds),
            closed=lambda: self._closed,
        )
        self._sampler.start()

    async def wait_first(self, timeout_seconds: float) -> None:
        """Return when something was read, or after the timeout."""
        try:
            await self._sampler.wait_first(timeout_seconds)
        except TimeoutError:
            return

    def readings(self) -> tuple[ServerReading, ...]:
        """Return the newest reading of every server that has given one."""
        return self._fleet.servers()

    def standings(self, holders: dict[str, str], closed: Closed) -> tuple[GPUStanding, ...]:
        """Say of every GPU what it is to the hub."""
        self._closed = closed
        return self._fleet.standings(holders)

    def close(self) -> None:
        """End reading."""
        self._sampler.stop()
