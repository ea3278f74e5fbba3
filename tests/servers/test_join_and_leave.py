"""Servers join and leave a hub that runs, also such without GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from cluster import Cluster, ClusterHub
from hubs import wait_for


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), count=2, gpus=[2, 0]) as cluster:
        yield cluster


@pytest.fixture
def hub(cluster: Cluster, tmp_path: Path) -> Iterator[ClusterHub]:
    """A hub that knows the first server only."""
    hub = cluster.hub(tmp_path / "hub", students=4)
    write(hub, servers=servers(cluster)[:1])
    with hub:
        yield hub
        print(hub.log_tail())


def servers(cluster: Cluster) -> list[dict[str, Any]]:
    """Return both servers, the second one without an agent."""
    first, second = (server.settings() for server in cluster.servers)
    plain = {key: value for key, value in second.items() if key != "agent"}
    return [dict(first), plain | {"name": "cpu01"}]


def write(hub: ClusterHub, **over: Any) -> None:
    """Change the settings file."""
    (hub.folder / "settings.yml").write_text(json.dumps(hub.settings | over))


def idl_hub(hub: ClusterHub, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an admin does."""
    environment = os.environ | {"IDLHUB_SETTINGS": str(hub.folder / "settings.yml")}
    command = [sys.executable, "-m", "idl_hub.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def start(hub: ClusterHub, name: str, gpu: str) -> requests.Response:
    answer = hub.api("POST", f"/users/{name}/server", {"gpu": gpu}, timeout=60)
    if answer.status_code == 202:
        wait_for(lambda: server_of(hub, name).get("ready"), f"the server of {name}", 60)
    return answer


def server_of(hub: ClusterHub, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = hub.api("GET", f"/users/{name}").json().get("servers", {}).get("", {})
    return found


def place_of(hub: ClusterHub, name: str) -> str:
    rows = hub.rows("select server from lease where user = ? and phase = 'running'", name)
    assert rows, f"{name} has no session\n{hub.log_tail()}"
    return str(rows[0][0])


class Map:
    """What an admin sees on the map, by the same interface."""

    def __init__(self, hub: ClusterHub) -> None:
        token = hub.api("POST", "/users/admin/tokens", {}).json()["token"]
        self._headers = {"Authorization": f"token {token}"}
        self._url = f"{hub.url}/services/web/api/fleet"

    @property
    def servers(self) -> dict[str, dict[str, Any]]:
        """Return the servers by their names."""
        answer = requests.get(self._url, headers=self._headers, timeout=30)
        answer.raise_for_status()
        found: dict[str, dict[str, Any]] = answer.json()["servers"]
        return found


def test_servers_join_get_sessions_leave_and_let_their_last_session_go_on(cluster: Cluster, hub: ClusterHub) -> None:
    gpu01, cpu01 = servers(cluster)
    assert start(hub, "student1", "none").ok
    assert place_of(hub, "student1") == "gpu01"
    shown = Map(hub)
    wait_for(lambda: list(shown.servers) == ["gpu01"], "the map to show the one server")

    # Joining: what does not need a GPU goes where there is none.
    write(hub, servers=[gpu01, cpu01])
    joined = idl_hub(hub, "reload")
    assert joined.stdout == "Joining: cpu01.\n", joined.stderr
    wait_for(lambda: shown.servers.get("cpu01", {}).get("engine_version"), "cpu01 to be connected")
    assert not shown.servers["cpu01"]["has_gpus"]
    assert start(hub, "student2", "none").ok
    assert place_of(hub, "student2") == "cpu01"
    assert start(hub, "student3", "one").ok
    assert place_of(hub, "student3") == "gpu01"
    wait_for(lambda: shown.servers["gpu01"]["free"] == 1, "the map to show the lease")
    lines = idl_hub(hub, "servers").stdout.splitlines()
    version = shown.servers["cpu01"]["engine_version"]
    assert lines[1].split()[:8] == ["cpu01", cpu01["address"], version, "none", "-", "-", "-", "-"]
    assert lines[2].split()[:8] == ["gpu01", gpu01["address"], version, "answers", "580.95.05", "1", "1", "0"]
    assert lines[-1] == "2 servers, 3 sessions."

    # Settings that cannot be used change nothing.
    write(hub, servers=[gpu01, cpu01 | {"address": "nowhere"}])
    refused = idl_hub(hub, "reload")
    assert refused.returncode == 1
    write(hub, servers=[gpu01, cpu01 | {"engine": dict(cpu01["engine"]) | {"key_file": "/does/not/exist"}}])
    refused = idl_hub(hub, "reload")
    assert refused.returncode == 1
    assert "servers.1.engine.key_file is '/does/not/exist'; it cannot be read" in refused.stderr

    # Leaving: the session there goes on, no other one comes.
    write(hub, servers=[gpu01], spawner=hub.settings["spawner"] | {"pids_limit": 500})
    left = idl_hub(hub, "reload")
    assert left.stdout.splitlines() == [
        "Leaving as soon as the sessions there have ended: cpu01. These need a restart of the hub: spawner.pids_limit."
    ]
    assert start(hub, "student4", "none").ok
    assert place_of(hub, "student4") == "gpu01"
    wait_for(lambda: shown.servers["cpu01"]["leaving"], "the map to show that cpu01 leaves")
    assert lab_answers(hub, "student2")

    # Also a hub that is started meanwhile looks after it until it ends; then the server is gone.
    hub.kill()
    hub.start_again()
    assert server_of(hub, "student2")["ready"]
    assert lab_answers(hub, "student2")
    assert hub.api("DELETE", "/users/student2/server", timeout=60).ok
    wait_for(lambda: list(shown.servers) == ["gpu01"], "cpu01 to be gone from the map")
    assert "gpu02" not in cluster.containers(hub.hub_id).values()  # which is how the cluster calls cpu01


def lab_answers(hub: ClusterHub, name: str) -> bool:
    return requests.get(f"{hub.url}/user/{name}/api", timeout=10).json() == {"version": "light"}
