"""The benchmark of the agent in full."""

from pathlib import Path

import pytest
from benchmarks import agent

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


def test_the_agent_takes_at_most_one_percent_of_a_core_and_60_mb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = agent.main(["--seconds", "60", "--json", str(tmp_path / "costs.json")])
    assert not missed, capsys.readouterr().out
