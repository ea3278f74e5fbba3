"""The benchmark of engines, in a size for each change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import engines

if TYPE_CHECKING:
    from pathlib import Path


def test_the_engine_benchmark_times_both_ways_on_the_same_engine(tmp_path: Path) -> None:
    result = engines.measure(tmp_path / "cluster", runs=9)
    assert len(result.ours) == len(result.plain) == 9
    assert min(result.ours + result.plain) > 0
    assert result.ratio < 1.2, engines.as_text(result)
    assert "Ratio of the medians" in engines.as_text(result)
