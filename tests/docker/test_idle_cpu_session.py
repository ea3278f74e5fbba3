"""A session without a GPU ends by itself when nothing happens in it; with the real image."""

from __future__ import annotations

from pathlib import Path

from hubs import Hub, wait_for
from students import Student


def test_a_session_without_gpu_ends_when_nothing_happens_and_one_with_gpu_does_not(tmp_path: Path) -> None:
    settings = {"sessions": {"idle_minutes_without_gpu": 0.05}}
    with Hub(tmp_path / "hub", gpus=1, students=2, settings=settings) as hub:
        Student(hub, "student1").started(gpu="one")
        Student(hub, "student2").started(gpu="none")
        # Jupyter looks once a minute whether it should end.
        wait_for(lambda: {lease.user for lease in hub.leases(live=True)} == {"student1"}, "the CPU session's end", 150)
        [ending] = [lease.ending for lease in hub.leases() if lease.user == "student2"]
        assert ending is not None
