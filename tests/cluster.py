"""Servers for tests: each a container with its own systemd, Docker engine, agent and sshd, and a hub for them.

``with Cluster(folder, count=3) as cluster:`` starts them and removes them; what an earlier run could not
remove is removed as well.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cluster_runs
from agents import write_private
from cluster_disks import LABEL, Disks
from cluster_image import server_image
from cluster_pki import Authority
from cluster_server import SIMULATOR_STATE, STUDENT_NETWORK, Keys, Server
from hubs import HUB_LABEL, Hub
from light import light_image

from idl_hub.gpus.simulator import Simulator, build
from idl_hub.homes.store import MARKER

__all__ = ["Cluster", "ClusterHub", "Server"]

REGISTRY_PORT = 5000
_STUDENT_IMAGE = "idl-hub/student:latest"


class Cluster:
    """Servers on a network of their own.

    Parameters
    ----------
    folder
        Empty or missing folder for certificates, homes and simulated GPUs.
    count
        How many servers: gpu01, gpu02, ...
    gpus
        How many simulated GPUs each has; or a number for each.
    image
        ``light`` or ``student``: what lies on the servers' disks; or names of images.
    debian
        ``trixie`` (Docker 26.1) or ``bookworm`` (20.10).
    engine
        More for `idl_hub.servers.daemon.daemon_settings`.

    Attributes
    ----------
    hub_address, hub_address6
        This machine's addresses in the cluster's network, where the hub listens. Servers trust a registry at
        `hub_address`, port 5000, with the certificate ``registry.pem`` of `pki`.
    homes
        Mounted at the same path on all servers and on this machine.
    authority
        Who vouches for all of them.
    pki
        Folder with ``ca.pem`` and, with their keys in ``NAME-key.pem``, ``hub.pem`` and ``registry.pem``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        count: int = 3,
        gpus: int | Sequence[int] = 2,
        image: str | Sequence[str] = "light",
        debian: str = "trixie",
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.gpus = [gpus] * count if isinstance(gpus, int) else list(gpus)
        assert len(self.gpus) == count, f"{count} servers, but the GPUs of {len(self.gpus)}"
        self.images = [_image(name) for name in ([image] if isinstance(image, str) else image)]
        self.servers: list[Server] = []
        self.homes = folder / "homes"
        self.pki = folder / "pki"
        self._engine = dict(engine or {})
        self._debian = debian
        self._run = f"idlhub-test-{secrets.token_hex(4)}"
        self._disks: Disks | None = None

    # -- coming and going ---------------------------------------------------------------------------

    def __enter__(self) -> Cluster:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Cluster:
        """Start all servers and return when their engines and agents answer."""
        image = server_image(self._debian)
        cluster_runs.remove_forgotten(image)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.homes.mkdir(mode=0o755)
        (self.homes / MARKER).touch()
        self._disks = Disks(self._run, image)
        names = [f"gpu{number:02d}" for number in range(1, len(self.gpus) + 1)]
        with ThreadPoolExecutor(len(names) + 1) as pool:
            copied = pool.submit(self._disks.make, names, self.images)
            self._make_network()
            self.authority = authority = Authority(self.pki)
            authority.write("registry", authority.issue("registry", [self.hub_address]))
            library = build(self.folder / "simulator")
            hub = authority.write("hub", authority.issue("hub", client=True))
            self.servers = [self._server(number, name, authority, hub) for number, name in enumerate(names)]
            copied.result()
            list(pool.map(lambda server: self._start_server(server, image, authority, library), self.servers))
        return self

    def _make_network(self) -> None:
        self._subnets = cluster_runs.make_network(self._run, self._labels())
        self.hub_address, self.hub_address6 = (cluster_runs.host(subnet, 1) for subnet in self._subnets)

    def _server(self, number: int, name: str, authority: Authority, hub: tuple[Path, Path]) -> Server:
        folder = self.folder / name
        gpus = folder / "simulated-gpus"
        gpus.mkdir(parents=True)
        gpus.chmod(0o755)  # students' containers read it as another user
        simulator = Simulator(gpus / Path(SIMULATOR_STATE).name)
        simulator.create(self.gpus[number])
        token = write_private(folder / "token", secrets.token_hex(32).encode())
        address, address6 = (cluster_runs.host(subnet, 101 + number) for subnet in self._subnets)
        return Server(name, address, address6, simulator, self.homes, Keys(authority.file, *hub, token))

    def _start_server(self, server: Server, image: str, authority: Authority, library: Path) -> None:
        assert self._disks is not None
        options = [*self._labels(), "--network", self._run, *self._disks.options(server.name)]
        server.create(image, ["--name", f"{self._run}-{server.name}", *options], library)
        issued = authority.issue(server.name, [server.address, server.address6])
        registry = f"{self.hub_address}:{REGISTRY_PORT}"
        server.configure(issued, authority.file.read_bytes(), registry, **self._engine)
        server.start()
        server.make_student_network()

    def _labels(self) -> list[str]:
        return cluster_runs.labels(self._run)

    def stop(self) -> None:
        """Remove the servers, their disks and their network."""
        cluster_runs.remove(self._run)
        if self._disks is not None:
            self._disks.remove()

    # -- using it --------------------------------------------------------------------------------------

    def server(self, name: str) -> Server:
        """Return the server of that name."""
        return next(server for server in self.servers if server.name == name)

    @property
    def label(self) -> str:
        """What containers and networks of this cluster are labelled with."""
        return f"{LABEL}={self._run}"

    def settings(self, over: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """Return settings for a `Hub` of these servers; `over` is laid over them, section by section."""
        settings: dict[str, Any] = {
            "servers": [server.settings() for server in self.servers],
            "hub": {"internal_address": self.hub_address},
            "homes": {"directory": str(self.homes)},
            "gpus": {"simulated": max(*self.gpus, 1), "simulator_state": SIMULATOR_STATE},
            "spawner": {"image": self.images[0], "network": STUDENT_NETWORK, "stop_timeout_seconds": 2},
        }
        for section, values in (over or {}).items():
            settings[section] = settings.get(section, {}) | dict(values)
        return settings

    def hub(self, folder: Path, *, settings: Mapping[str, Mapping[str, Any]] | None = None, **more: Any) -> ClusterHub:
        """Return a hub of these servers, which does not run yet; `more` goes to `Hub`."""
        return ClusterHub(self, folder, settings=self.settings(settings), **more)

    def containers(self, hub_id: str, *, running: bool = False) -> dict[str, str]:
        """Return the ids of a hub's containers, each with its server's name; of servers that run."""
        every = [] if running else ["-a"]
        label = f"label={HUB_LABEL}={hub_id}"
        found = {}
        for server in self.servers:
            listed = server.docker("ps", *every, "-q", "--no-trunc", "--filter", label).split()
            found |= dict.fromkeys(listed, server.name)
        return found


class ClusterHub(Hub):
    """A hub whose containers are on the servers of a cluster."""

    def __init__(self, cluster: Cluster, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self.cluster = cluster

    def containers(self, *, running: bool = False) -> list[str]:
        """Return the ids of this hub's containers on all servers."""
        if not self.database.exists():
            return []
        return list(self.cluster.containers(self.hub_id, running=running))

    def stop(self) -> None:
        """End hub, pages and proxy; remove its containers."""
        self.kind = "process"  # the containers are not on this machine's engine
        super().stop()
        self.kind = "docker"
        for container, name in self.cluster.containers(self.hub_id).items() if self.database.exists() else ():
            self.cluster.server(name).docker("rm", "-f", container, check=False)


def _image(name: str) -> str:
    return {"light": light_image, "student": lambda: _STUDENT_IMAGE}.get(name, lambda: name)()
