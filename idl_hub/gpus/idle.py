"""Since when a GPU sits idle by NVML: no kernel ran and its memory did not grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from idl_hub.gpus.reading import GPU, ServerReading

_IDLE_BELOW_RATIO = 0.01
_GROWTH_BYTES = 16 * 2**20


@dataclass(slots=True)
class _Trace:
    active_at: float
    memory_used_bytes: int


class IdleTracker:
    """Follows readings. What is not known counts as use: nobody loses a GPU because NVML was silent.

    Starts anew with its process, so a restarted hub gives every session its full idle time again.
    """

    def __init__(self) -> None:
        self._traces: dict[str, _Trace] = {}
        self._seen_at: dict[str, float] = {}

    def follow(self, servers: Iterable[ServerReading]) -> None:
        """Take in the newest readings; the same one twice changes nothing."""
        for server in servers:
            if self._seen_at.get(server.server) == server.taken_at:
                continue
            self._seen_at[server.server] = server.taken_at
            for gpu in server.gpus:
                if gpu.uuid is not None:
                    self._follow_gpu(gpu.uuid, gpu, server.taken_at)

    def _follow_gpu(self, uuid: str, gpu: GPU, taken_at: float) -> None:
        trace = self._traces.get(uuid)
        if trace is None or gpu.utilization_ratio is None or gpu.memory_used_bytes is None:
            self._traces[uuid] = _Trace(taken_at, gpu.memory_used_bytes or 0)
        elif (
            gpu.utilization_ratio >= _IDLE_BELOW_RATIO
            or gpu.memory_used_bytes > trace.memory_used_bytes + _GROWTH_BYTES
        ):
            self._traces[uuid] = _Trace(taken_at, gpu.memory_used_bytes)
        else:
            # Freed memory lowers the mark, so that what is taken again later counts as growth.
            trace.memory_used_bytes = min(trace.memory_used_bytes, gpu.memory_used_bytes)

    def idle_since(self, uuids: Iterable[str]) -> float | None:
        """Return since when all these GPUs are idle; None when one of them was never read."""
        since = [trace.active_at if (trace := self._traces.get(uuid)) else None for uuid in uuids]
        if not since or None in since:
            return None
        return max(moment for moment in since if moment is not None)
