"""Every benchmark, in a size for each change: that it still measures what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks import spawn

if TYPE_CHECKING:
    from pathlib import Path


def test_the_spawn_benchmark_times_both_hubs_and_every_stage(tmp_path: Path) -> None:
    result = spawn.measure(tmp_path, runs=1, class_size=2)
    for side in (result.ours, result.stock):
        [alone] = side.alone
        assert side.at_once_ready == 2
        for start in (alone, *side.at_once):
            assert start.ready is not None
            assert set(start.stages) == set(spawn.STAGES)
            assert sum(start.stages.values()) == pytest.approx(start.ready, abs=0.01)
    assert result.ratio < 1, spawn.as_text(result)
    assert "Ratio of the medians alone" in spawn.as_text(result)
