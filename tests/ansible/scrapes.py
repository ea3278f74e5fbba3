"""What Prometheus on the fleet's hub really gets, compared with what dashboards and alert rules ask it for."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from ansible.machine import Machine
from dashboards import asked_for
from hubs import wait_for

BEGINS_LATER = {
    # Prometheus makes it while an alert is active.
    "ALERTS",
    # Begins with the first error of a card; tests/unit/test_dashboards.py has one.
    "nvidia_smi_xid_last_timestamp_seconds",
    # Begins with the first program on a card; the same.
    "idlhub_gpu_processes",
    # Begins with the first weekly clean-up of the backups.
    "idlhub_backup_tidy_failed",
    # Is there while somebody holds a GPU; tests/unit/test_hub_metrics.py.
    "idlhub_gpu_reserved",
}
"""What a fleet on which nothing has happened yet does not have."""
_ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


def ask(hub: Machine, path: str) -> Any:
    """Return what Prometheus on the hub answers at a path below ``/api/v1``."""
    answer = json.loads(hub.exec("python3", "-c", _ASK, f"http://127.0.0.1:9090/api/v1/{path}"))
    assert answer["status"] == "success", answer
    return answer["data"]


def down(hub: Machine) -> dict[str, str]:
    """Return what Prometheus gets no answer from, each with the error."""
    targets = ask(hub, "targets?state=active")["activeTargets"]
    assert targets
    return {
        f"{target['labels']['job']} of {target['labels']['instance']}": target["lastError"]
        for target in targets
        if target["health"] != "up"
    }


def alerts(hub: Machine) -> dict[str, str]:
    """Return the alerts that are raised now, each with its summary."""
    found = ask(hub, "alerts")["alerts"]
    return {
        alert["labels"]["alertname"]: alert["annotations"]["summary"] for alert in found if alert["state"] == "firing"
    }


def missing(hub: Machine) -> dict[str, set[str]]:
    """Return every metric that dashboards or rules ask for and Prometheus has never had, each with the files."""
    told = set(ask(hub, "label/__name__/values"))
    return {name: files for name, files in asked_for().items() if name not in told | BEGINS_LATER}


def value(hub: Machine, query: str) -> float | None:
    """Return the one value of a query; None when there is none."""
    result = ask(hub, f"query?query={quote(query)}")["result"]
    assert len(result) <= 1, result
    return float(result[0]["value"][1]) if result else None


def wait_until_all_is_seen(hub: Machine, seconds: float = 120) -> None:
    """Return when Prometheus gets answers from everybody and every metric that is asked for; fail when not in time.

    What timers tell is told now.
    """
    for service in ("idl-hub-doctor", "idl-hub-snapshots", "idl-hub-backup"):
        hub.exec("systemctl", "start", service, check=False)  # what it finds is not the question here
    with suppress(AssertionError):  # those below say more
        wait_for(lambda: not (down(hub) or missing(hub)), "all to be seen", seconds, every_seconds=3)
    assert down(hub) == {}
    assert missing(hub) == {}
