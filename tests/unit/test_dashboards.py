"""Dashboards and alerts ask only for what real processes tell; those of others are asked for where they run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests
from agents import RunningAgent
from dashboards import DASHBOARDS, asked_for, metrics_of, panels, queries_of
from documented_metrics import documented
from hubs import Hub, wait_for
from prometheus_client.parser import text_string_to_metric_families

from idl_hub.gpus.simulator import SimulatedProcess, Simulator
from idl_hub.homes.store import MARKER

pytest_plugins = ["simulated_gpus"]

OURS = ("idlhub_", "jupyterhub_", "nvidia_smi_")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ('sum by (server) (rate(a_total{state=~"x|y", job!="b(c)"}[5m])) > 0', {"a_total"}),
        ("time() - a_seconds > 2 * 86400 and on (uuid) b < 1e9", {"a_seconds", "b"}),
        ("histogram_quantile(0.5, sum by (le) (rate(a_bucket[10m]))) or vector(0)", {"a_bucket"}),
        ("x * on (uuid, server) group_left (index, name) y offset 5m", {"x", "y"}),
        ("up > [[ monitoring_queue_length ]]", {"up"}),
    ],
)
def test_names_of_metrics_are_told_from_the_rest_of_a_query(query: str, names: set[str]) -> None:
    assert metrics_of(query) == names


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.name)
def test_a_dashboard_can_be_imported_anywhere(file: Path) -> None:
    board = json.loads(file.read_text())
    assert board["uid"] == f"idlhub-{file.stem}"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(board):
        assert panel["title"], panel["id"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]
        # Whoever imports it says which Prometheus it is about.
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}, panel["title"]
    assert list(queries_of(board))


class Scrape:
    """What a token may read."""

    def __init__(self, url: str, token: str, ca: Path | None = None) -> None:
        self.answer = requests.get(
            url, headers={"Authorization": f"Bearer {token}"}, timeout=30, verify=str(ca) if ca else True
        )

    def labels(self) -> dict[str, set[str]]:
        """Return every metric with its labels."""
        found: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(self.answer.text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        return found

    def names(self) -> set[str]:
        """Return every metric, also those that have a name but no value now."""
        families = {family.name for family in text_string_to_metric_families(self.answer.text)}
        return families | self.labels().keys()


def tells_everything(agent: RunningAgent, simulator: Simulator) -> bool:
    text = agent.get("/metrics").text
    if 'xid="79"' not in text:
        simulator.report_xid(3, 79)  # again and again, as the agent may not listen yet
    return 'xid="79"' in text and "idlhub_server_cpu_utilization_ratio" in text


def test_hub_and_pages_tell_prometheus_and_nobody_else_what_dashboards_and_alerts_ask_for(
    tmp_path: Path, simulator: Simulator, simulator_library: Path
) -> None:
    homes = tmp_path / "homes"
    homes.mkdir()
    (homes / MARKER).touch()
    (tmp_path / "agent").mkdir()
    simulator.set(2, processes=[SimulatedProcess(1, 2**30)])
    told = set(documented("What timers write"))
    with RunningAgent(simulator, simulator_library, tmp_path / "agent") as agent:
        wait_for(lambda: tells_everything(agent, simulator), "two readings and an XID")
        told |= Scrape(f"{agent.url}/metrics", agent.token, agent.certificate).names()
    with Hub(
        tmp_path / "hub", kind="process", gpus=1, students=1, settings={"homes": {"directory": str(homes)}}
    ) as hub:
        token = (tmp_path / "hub" / "state" / "prometheus-token").read_text().strip()
        inside = f"http://{hub.settings['hub']['internal_address']}:{hub.settings['hub']['internal_port']}/hub"
        pages = f"{hub.url}/services/web/metrics"

        wait_for(lambda: "idlhub_homes_up" in Scrape(f"{inside}/metrics", token).answer.text, "the hub to look around")
        told |= Scrape(f"{inside}/metrics", token).names()
        of_pages = {name: labels for name, labels in Scrape(pages, token).labels().items() if "idlhub" in name}
        assert of_pages == documented("The GPU pages")
        told |= of_pages.keys()

        for address in (f"{inside}/metrics", pages):
            assert requests.get(address, timeout=30).status_code == 403
            assert Scrape(address, "0" * 64).answer.status_code == 403
        assert Scrape(f"{inside}/api/users", token).answer.status_code == 403, "that token is for metrics alone"
    missing = {name: files for name, files in asked_for().items() if name.startswith(OURS) and name not in told}
    assert not missing
