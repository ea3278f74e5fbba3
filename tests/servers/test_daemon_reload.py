"""A container keeps its devices while systemd on its server reloads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from cluster import Cluster, Server
from light import light_image

DEVICE = "/dev/gpu0"
_OPEN = f"import os; os.close(os.open('{DEVICE}', os.O_RDONLY)); print('opened')"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a device that containers do not have by themselves."""
    with Cluster(tmp_path_factory.mktemp("cluster"), count=1) as cluster:
        server = cluster.servers[0]
        server.exec("mknod", DEVICE, "c", "1", "11")
        yield server


@dataclass(frozen=True)
class Given:
    """Two containers: one that the engine gave the device, one to which a tool gave it behind the engine's back.

    The second is what NVIDIA's container toolkit does when a container starts.
    """

    server: Server

    def start(self) -> None:
        rights = ("--detach", "--cap-add", "SYSLOG", "--cap-add", "MKNOD", "--user", "0")
        sleep = (light_image(), "sleep", "600")
        self.server.docker("run", *rights, "--name", "by-engine", "--device", DEVICE, *sleep)
        self.server.docker("run", *rights, "--name", "by-tool", *sleep)
        self.server.docker("exec", "by-tool", "mknod", DEVICE, "c", "1", "11")
        assert self.opened() == {"by-engine": True, "by-tool": False}
        pid = self.server.docker("inspect", "--format", "{{.State.Pid}}", "by-tool")
        groups = self.server.exec("cat", f"/proc/{pid}/cgroup").splitlines()
        [group] = [line.split(":")[2] for line in groups if "devices" in line.split(":")[1].split(",")]
        allow = f"/sys/fs/cgroup/devices{group}/devices.allow"
        self.server.exec("sh", "-c", f"echo 'c 1:11 rwm' > {allow}")
        assert self.opened() == {"by-engine": True, "by-tool": True}

    def opened(self) -> dict[str, bool]:
        """Return which of the containers can open the device."""
        names = ("by-engine", "by-tool")
        told = {name: self.server.docker("exec", name, "python3", "-c", _OPEN, check=False) for name in names}
        assert all("opened" in words or "not permitted" in words for words in told.values()), told
        return {name: "opened" in words for name, words in told.items()}

    def reload(self) -> None:
        """Do what an upgrade of packages does to a server."""
        self.server.exec("systemctl", "daemon-reload")
        self.server.exec("systemctl", "daemon-reexec")
        self.server.restart_engine()

    def remove(self) -> None:
        self.server.docker("rm", "--force", "by-engine", "by-tool")


@pytest.fixture
def given(server: Server) -> Iterator[Given]:
    given = Given(server)
    yield given
    given.remove()


def test_devices_survive_reload_reexec_and_a_restart_of_the_engine(given: Given) -> None:
    given.start()
    given.reload()
    assert given.opened() == {"by-engine": True, "by-tool": True}


def test_with_the_groups_made_by_systemd_a_device_given_by_a_tool_would_be_lost(given: Given) -> None:
    server = given.server
    shipped = server.exec("cat", "/etc/docker/daemon.json")
    otherwise = json.loads(shipped) | {"exec-opts": ["native.cgroupdriver=systemd"]}
    server.write({"etc/docker/daemon.json": json.dumps(otherwise).encode()})
    try:
        server.restart_engine()
        given.start()
        given.reload()
        assert given.opened() == {"by-engine": True, "by-tool": False}
        given.remove()
    finally:
        server.write({"etc/docker/daemon.json": shipped.encode()})
        server.restart_engine()
