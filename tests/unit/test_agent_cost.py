"""The benchmark of the agent in a size for each change: that it still measures what it says."""

import json
from pathlib import Path

import pytest
from benchmarks import agent


def test_the_agent_benchmark_watches_both_programs_and_the_agent_stays_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.main(["--seconds", "4", "--json", str(tmp_path / "costs.json")])
    ours, exporter = json.loads((tmp_path / "costs.json").read_text())
    assert (ours["name"], exporter["name"]) == ("agent", "nvitop-exporter")
    for cost in (ours, exporter):
        assert 4 <= cost["seconds"] < 10
        assert 0 < cost["cpu_seconds"] < cost["seconds"]
        assert cost["rss_bytes"] > 10**7
    assert ours["rss_bytes"] <= agent.GOAL_RSS_BYTES
    assert ours["cpu_seconds"] < 0.3, "some 0.02 s are usual; a busy machine gets room, a busy loop none"
    assert "of a core" in capsys.readouterr().out
