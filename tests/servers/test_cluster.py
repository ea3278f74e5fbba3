"""The tests' own servers: quick to start, closed to strangers, and gone afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from cluster import Cluster
from cluster_disks import LABEL, in_volume
from cluster_image import server_image
from cluster_pki import Authority
from hubs import ROOT, docker, wait_for
from light import light_image

START_SECONDS = 25
_KILLED = """
import sys
from pathlib import Path
from cluster import Cluster
with Cluster(Path(sys.argv[1]), count=1) as cluster:
    print(cluster.servers[0].container, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), count=2, gpus=[1, 0]) as cluster:
        yield cluster


@pytest.mark.usefixtures("cluster")  # makes the images and a disk, where that has not been done
def test_three_servers_are_ready_within_25_seconds_and_leave_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    with Cluster(tmp_path / "cluster", count=3) as cluster:
        took = time.monotonic() - began
        assert all(server.engine_answers() and server.agent_answers() for server in cluster.servers)
        shown = [server.docker("images", "--format", "{{.Repository}}:{{.Tag}}") for server in cluster.servers]
        assert shown == [light_image()] * 3
        label = cluster.label
    print(f"three servers were ready after {took:.1f} s")
    assert took < START_SECONDS
    assert leftovers(label) == ""


def leftovers(label: str) -> str:
    """Return what is left of a cluster: containers, networks, disks."""
    name = label.partition("=")[2]
    parts = [docker(*what, "--filter", f"label={label}") for what in (("ps", "-aq"), ("network", "ls", "-q"))]
    disks = in_volume(server_image(), "ls /disks/runs").split()
    return "".join(parts) + "".join(disk for disk in disks if disk == name)


def test_an_engine_and_an_agent_answer_the_hub_alone(cluster: Cluster, tmp_path: Path) -> None:
    first = cluster.servers[0]
    engine, agent = f"https://{first.address}:2376/_ping", f"https://{first.address}:9810/readings"
    ca = str(cluster.pki / "ca.pem")
    other = Authority(tmp_path / "other")
    strangers = [None, other.write("stranger", other.issue("hub", client=True))]
    for stranger in strangers:
        cert = tuple(map(str, stranger)) if stranger else None
        with pytest.raises((requests.exceptions.SSLError, requests.ConnectionError)):
            requests.get(engine, verify=ca, cert=cert, timeout=5)
    assert requests.get(agent, verify=ca, timeout=5).status_code == 401
    assert first.engine_answers()
    assert first.agent_answers()


def test_a_server_is_reached_by_both_kinds_of_addresses_and_by_name(cluster: Cluster) -> None:
    first, second = cluster.servers
    for address in (first.address, first.address6):
        with socket.create_connection((address, 22), timeout=5) as connection:
            assert connection.recv(3) == b"SSH"
    assert first.name in second.exec("getent", "hosts", first.name)


def test_a_cut_network_is_silent_both_ways_and_can_be_restored(cluster: Cluster) -> None:
    first, second = cluster.servers
    first.cut_network()
    try:
        with pytest.raises(TimeoutError):
            socket.create_connection((first.address, 22), timeout=2)
        to_the_other = f"timeout 2 bash -c '</dev/tcp/{second.address}/22'; echo $?"
        assert first.exec("sh", "-c", to_the_other) == "124"
    finally:
        first.restore_network()
    assert first.engine_answers()
    assert first.exec("bash", "-c", f"</dev/tcp/{second.address}/22 && echo reached") == "reached"


def test_without_power_containers_end_and_the_disk_stays(cluster: Cluster) -> None:
    first = cluster.servers[0]
    first.docker("run", "--detach", "--name", "work", light_image(), "sleep", "600")
    first.kill()
    assert not first.engine_answers(seconds=1)
    first.start()
    assert first.docker("inspect", "--format", "{{.State.Running}}", "work") == "false"
    first.docker("rm", "work")


def test_with_an_unmounted_home_server_the_folder_is_empty(cluster: Cluster) -> None:
    first, second = cluster.servers
    (cluster.homes / "note").write_text("seen everywhere")
    assert first.exec("cat", f"{cluster.homes}/note") == "seen everywhere"
    first.unmount_homes()
    assert first.exec("ls", "-A", str(cluster.homes)) == ""
    assert second.exec("cat", f"{cluster.homes}/note") == "seen everywhere"
    first.mount_homes()
    assert first.exec("cat", f"{cluster.homes}/note") == "seen everywhere"


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    run = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path / "killed")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    container = run.stdout.readline().strip()
    label = LABEL + "=" + docker("inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', container)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=30)
    assert leftovers(label)
    with Cluster(tmp_path / "next", count=1):
        wait_for(lambda: leftovers(label) == "", "the leftovers to be removed", 30)
