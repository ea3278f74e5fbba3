"""Since when a GPU is idle, from readings."""

from __future__ import annotations

from idl_hub.gpus.idle import IdleTracker
from idl_hub.gpus.reading import GPU, HEALTHY, ServerReading

MIB = 2**20


def reading(at: float, utilization: float | None = 0.0, memory: int | None = 100 * MIB) -> ServerReading:
    gpu = GPU(uuid="GPU-1", index=0, health=HEALTHY, utilization_ratio=utilization, memory_used_bytes=memory)
    return ServerReading(server="s", taken_at=at, health=HEALTHY, gpus=(gpu,))


def idle_since(*readings: ServerReading) -> float | None:
    tracker = IdleTracker()
    for one in readings:
        tracker.follow([one])
    return tracker.idle_since(["GPU-1"])


def test_a_gpu_never_read_is_not_called_idle() -> None:
    assert IdleTracker().idle_since(["GPU-1"]) is None
    assert IdleTracker().idle_since([]) is None


def test_idleness_begins_with_the_last_kernel() -> None:
    assert idle_since(reading(1), reading(2, 0.5), reading(3), reading(4)) == 2


def test_growing_memory_is_use() -> None:
    assert idle_since(reading(1), reading(2, memory=200 * MIB), reading(3, memory=200 * MIB)) == 2


def test_memory_taken_again_after_it_was_freed_is_use() -> None:
    assert idle_since(reading(1, memory=500 * MIB), reading(2), reading(3, memory=300 * MIB)) == 3


def test_silence_of_nvml_is_use() -> None:
    assert idle_since(reading(1), reading(2, utilization=None), reading(3)) == 2


def test_of_several_gpus_the_last_used_one_counts() -> None:
    tracker = IdleTracker()
    one = GPU(uuid="GPU-1", index=0, health=HEALTHY, utilization_ratio=0.0, memory_used_bytes=0)
    for at, busy in ((1.0, 0.0), (2.0, 0.9), (3.0, 0.0)):
        two = GPU(uuid="GPU-2", index=1, health=HEALTHY, utilization_ratio=busy, memory_used_bytes=0)
        tracker.follow([ServerReading(server="s", taken_at=at, health=HEALTHY, gpus=(one, two))])
    assert tracker.idle_since(["GPU-1"]) == 1
    assert tracker.idle_since(["GPU-1", "GPU-2"]) == 2
