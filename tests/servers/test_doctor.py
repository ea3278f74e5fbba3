"""``idl-hub doctor`` against real servers: all is well, then much is broken at once, and each of it is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, ClusterHub
from hubs import wait_for
from students import Student

from idl_hub.homes.store import MARKER

UNIT = "idlhub-agent.service"
CLOCK = "[Service]\nEnvironment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME=+1h\n"
LONGEST_SECONDS = 20.0


@dataclass(frozen=True)
class Report:
    """What the doctor said."""

    code: int
    whole: dict[str, Any]
    seconds: float

    def problems(self, check: str, target: str) -> str:
        """Return the texts and advices of a check, in one."""
        [found] = [one for one in self.whole["checks"] if (one["check"], one["target"]) == (check, target)]
        return " ".join(f"{problem['text']} -> {problem['advice']}" for problem in found["problems"])

    def not_ok(self) -> set[tuple[str, str]]:
        return {(one["check"], one["target"]) for one in self.whole["checks"] if one["state"] != "ok"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHub]:
    folder = tmp_path_factory.mktemp("doctor")
    with Cluster(folder / "cluster", count=3, gpus=1) as cluster, cluster.hub(folder / "hub", students=2) as hub:
        yield hub
        print(hub.log_tail())


def at_the_shell(hub: ClusterHub, *words: str) -> subprocess.CompletedProcess[str]:
    more = {"IDLHUB_SETTINGS": str(hub.folder / "settings.yml"), "CONFIGPROXY_AUTH_TOKEN": hub.secrets[0]}
    command = [sys.executable, "-m", "idl_hub.cli", *words]
    return subprocess.run(command, env=os.environ | more, capture_output=True, text=True, timeout=90)


def doctor(hub: ClusterHub, *arguments: str) -> Report:
    began = time.monotonic()
    done = at_the_shell(hub, "doctor", "--json", *arguments)
    assert done.stderr == ""
    return Report(done.returncode, json.loads(done.stdout), time.monotonic() - began)


def test_of_a_healthy_fleet_it_finds_nothing_wrong(hub: ClusterHub, tmp_path: Path) -> None:
    student = Student(hub, "student1").started()
    report = doctor(hub, "--metrics", str(tmp_path / "doctor.prom"))
    assert (report.not_ok(), report.code) == (set(), 0), json.dumps(report.whole, indent=1)
    checks = {one["check"] for one in report.whole["checks"]}
    assert checks >= {"hub", "proxy", "web", "engine", "agent", "leases", "image", "homes", "database", "alike"}
    print(f"{len(report.whole['checks'])} checks took {report.whole['seconds']:.1f} s")
    metrics = (tmp_path / "doctor.prom").read_text()
    assert 'idlhub_doctor_check{check="agent",target="gpu03"} 1.0' in metrics
    ends = [line for line in metrics.splitlines() if line.startswith("idlhub_certificate_expiry_timestamp_seconds{")]
    assert len(ends) == 3 + 3 + 2  # engines, agents, and in files: the authority and the hub
    student.stop()
    wait_for(lambda: not hub.leftovers(), "nothing to be left")


def test_a_server_without_the_homes_fails_its_smoke_test_at_once_and_the_doctor_tells_why(hub: ClusterHub) -> None:
    second = hub.cluster.server("gpu02")
    second.unmount_homes()
    try:
        tried = at_the_shell(hub, "smoke", "--server", "gpu02", "--no-train")
    finally:
        second.mount_homes()
    assert tried.returncode == 1, tried.stdout + tried.stderr
    assert "gpu02 cannot take a session, and is out of service: the homes are not mounted there" in tried.stdout
    assert not hub.leftovers()
    report = doctor(hub, "--only", "service")
    assert report.code == 3
    assert "the homes are not mounted there" in report.problems("service", "fleet")
    assert at_the_shell(hub, "undrain", "gpu02").returncode == 0


def test_it_names_all_that_is_broken_at_once_and_what_to_do_within_its_deadline(hub: ClusterHub) -> None:
    cluster = hub.cluster
    first, second, third = cluster.servers
    expired = cluster.authority.issue(first.name, [first.address], days=-0.5)
    first.write({"etc/idl-hub/agent/certificate.pem": expired.certificate, "etc/idl-hub/agent/key.pem": expired.key})
    third.write({f"etc/systemd/system/{UNIT}.d/clock.conf": CLOCK.encode()}, mode=0o644)
    for server, *command in (
        (first, "systemctl", "restart", UNIT),
        (second, "systemctl", "stop", UNIT),
        (third, "systemctl", "daemon-reload"),
        (third, "systemctl", "restart", UNIT),
    ):
        server.exec(*command)
    wait_for(third.agent_answers, "the agent with the wrong clock")
    third.docker("network", "rm", "idlhub")
    (cluster.homes / MARKER).rename(cluster.homes / "aside")
    (cluster.pki / "hub-key.pem").chmod(0o644)
    first.pause_engine()
    try:
        report = doctor(hub)
    finally:
        first.resume_engine()
    print(f"with all of that broken it took {report.seconds:.1f} s")
    assert report.code == 1
    assert report.seconds < LONGEST_SECONDS
    homes = str(cluster.homes)
    told = {
        ("engine", "gpu01"): ("no answer within 10 s", "systemctl restart docker"),
        ("agent", "gpu01"): ("ended 0.5 days ago: nobody trusts it", "ansible-playbook site.yml"),
        ("agent", "gpu02"): ("it cannot be reached", "docker restart idl-hub-agent"),
        ("agent", "gpu03"): ("its clock is 60 min ahead of the hub's", "chronyc"),
        ("engine", "gpu03"): ("the students' network idlhub is missing", "ansible-playbook site.yml"),
        ("homes", homes): (f"{homes} is not mounted", "idl-hub homes check"),
        ("files", "hub"): ("hub-key.pem can be read by others", "chmod 600"),
    }
    for (check, target), words in told.items():
        for word in words:
            assert word in report.problems(check, target), (check, target, report.problems(check, target))
    # What depends on the hung engine says so as well; nothing else is blamed.
    assert report.not_ok() == set(told) | {("leases", "gpu01"), ("image", "gpu01")}
