"""Bare machines for tests of the deployment: a hub and servers, each a container with systemd and sshd.

``with Machines(folder, count=2) as machines:`` starts hub, gpu01 and gpu02, with an inventory for them, and removes
them; ``python tests/ansible/machines.py up NAME`` does it for a person. The plays then bring everything that makes
them a fleet.

What a container is no machine in: students' homes are a folder of this machine, mounted on all of them, since the
kernel may have no NFS; the clock is this machine's. WireGuard runs as wireguard-go, through /dev/net/tun, where the
kernel has none: two machines moved 80 MB/s through it. apt reaches what this machine reaches, and needs nothing: the
packages that the roles install are in the image, with their services switched off.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

# For a person who runs this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cluster_runs
from ansible.inventories import BACKUPS, Inventory, Place
from ansible.machine import Access, Machine
from ansible.machine_images import machine_image
from cluster_disks import Disks
from cluster_image import ROOT, server_image
from hubs import docker

from ansible import plays

__all__ = ["Machine", "Machines"]

IMAGES = ("idl-hub/base:bookworm", "idl-hub/student:latest", "idl-hub/agent:latest", "idl-hub/hub:latest")
"""What lies on the machines' disks as far as this machine's engine has it, so that a test does not build it again."""
_HUB = "hub"
_HUB_NUMBER = 1
_RECORD = "machines.json"


@dataclass(frozen=True)
class _Made:
    """What must be known to find the machines again from another process."""

    run: str
    debian: str
    bare: bool
    subnets: list[str]
    images: list[str]
    machines: dict[str, str]
    """Names, each with the id of its container."""


class Machines:
    """A hub and servers on a network of their own.

    Parameters
    ----------
    folder
        Empty or missing folder for inventory, keys, homes and backups.
    count
        How many servers: gpu01, gpu02, ...
    gpus
        How many simulated GPUs each gets from the play.
    debian
        ``bookworm`` or ``trixie``; `add` can choose another for a machine.
    bare
        Without the packages that the roles install, which are then downloaded.
    images
        What lies on the machines' disks already: names of images, those that are missing here are passed over.
    owned
        Whether the machines go when this process does.

    Attributes
    ----------
    inventory
        Folder for ``ansible-playbook -i``.
    homes, snapshots
        Mounted on all machines at ``/srv/idl_hub``.
    backups
        Mounted on the hub; it outlives the hub.
    """

    def __init__(
        self,
        folder: Path,
        *,
        count: int = 2,
        gpus: int = 2,
        debian: str = "bookworm",
        bare: bool = False,
        images: tuple[str, ...] = IMAGES,
        owned: bool = True,
    ) -> None:
        self.folder = folder
        self.homes, self.snapshots, self.backups = (folder / name for name in ("homes", "snapshots", "backups"))
        self.settings = Inventory(folder / "inventory")
        self.inventory = self.settings.folder
        self.machines: dict[str, Machine] = {}
        self._count = count
        self._gpus = gpus
        self._debian = debian
        self._bare = bare
        self._owned = owned
        self._run = f"idlhub-machines-{secrets.token_hex(4)}"
        known = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
        self._images = [image for image in images if image in known]
        self._subnets: list[str] = []

    # -- coming and going ---------------------------------------------------------------------------

    def __enter__(self) -> Machines:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Machines:
        """Start all machines and return when ssh lets the admin in."""
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def _start_all(self) -> None:
        cluster_runs.remove_forgotten(server_image(self._debian))
        self.folder.mkdir(parents=True, exist_ok=True)
        for place in (self.homes, self.snapshots, self.backups):
            place.mkdir(mode=0o755)
        self._access = Access.make(self.folder)
        self.settings.write_settings(self._gpus)
        self._subnets = cluster_runs.make_network(self._run, cluster_runs.labels(self._run, owned=self._owned))
        names = [_HUB, *(f"gpu{number:02d}" for number in range(1, self._count + 1))]
        with ThreadPoolExecutor(len(names)) as pool:
            made = list(pool.map(lambda name: self._start(name, self._debian), self._disk(self._debian, names)))
        self.machines = {machine.name: machine for machine in made}
        self._write()

    def stop(self) -> None:
        """Remove the machines, their disks and their network."""
        cluster_runs.remove(self._run)
        self._disks(self._debian).remove()

    def add(self, name: str, debian: str = "") -> Machine:
        """Start one more bare machine, a server, and write it into the inventory."""
        assert name not in self.machines, f"{name} is there already"
        return self._join(name, debian or self._debian)

    def replace(self, name: str) -> Machine:
        """Throw a machine away and start another bare one with its name and address."""
        self.machines.pop(name).remove()
        self._disks(self._debian).discard(name)
        return self._join(name, self._debian)

    def take_out(self, name: str) -> Machine:
        """Take the line of a server out of the inventory; the machine runs on."""
        machine = self.machines.pop(name)
        self._write()
        return machine

    def _join(self, name: str, debian: str) -> Machine:
        self._disk(debian, [name])
        machine = self.machines[name] = self._start(name, debian)
        self._write()
        return machine

    def _start(self, name: str, debian: str) -> Machine:
        number = _number(name)
        machine = Machine(name, *(cluster_runs.host(subnet, number) for subnet in self._subnets))
        options = [*cluster_runs.labels(self._run, owned=self._owned), "--network", self._run]
        options += [*self._disks(debian).options(name), "--name", f"{self._run}-{name}-{secrets.token_hex(2)}"]
        folders = {self.homes: "/srv/idl_hub/homes", self.snapshots: "/srv/idl_hub/snapshots"}
        if name == _HUB:
            folders[self.backups] = BACKUPS
            options += ["--network-alias", "hub.test"]
        machine.create(machine_image(debian, bare=self._bare), options, folders)
        machine.admit(self._access, self.folder)
        machine.start(self._access, fresh_lists=not self._bare)
        if name == _HUB:  # which asks itself at its own name
            machine.trust((self.inventory / "tls" / "ca.pem").read_bytes())
        return machine

    def _disk(self, debian: str, names: list[str]) -> list[str]:
        self._disks(debian).make(names, self._images)
        return names

    def _disks(self, debian: str) -> Disks:
        # A disk is filled by an engine, which a machine that is really bare does not have.
        return Disks(self._run, server_image(debian) if self._bare else machine_image(debian))

    def _write(self) -> None:
        places = {name: self._place(machine) for name, machine in self.machines.items()}
        servers = [place for name, place in sorted(places.items()) if name != _HUB]
        self.settings.write(self._access, places[_HUB], servers)
        ids = {name: machine.container for name, machine in self.machines.items()}
        made = _Made(self._run, self._debian, self._bare, self._subnets, self._images, ids)
        (self.folder / _RECORD).write_text(json.dumps(asdict(made), indent=2))

    def _place(self, machine: Machine) -> Place:
        return Place(machine.name, machine.address, f"10.90.0.{_number(machine.name)}")

    @classmethod
    def find(cls, folder: Path) -> Machines:
        """Return the machines that another process made in a folder."""
        made = _Made(**json.loads((folder / _RECORD).read_text()))
        machines = cls(folder, debian=made.debian, bare=made.bare, images=tuple(made.images), owned=False)
        machines._run, machines._subnets = made.run, made.subnets
        machines._access = Access(folder / "ssh_key", folder / "known_hosts")
        for name, container in made.machines.items():
            machine = Machine(name, *(cluster_runs.host(subnet, _number(name)) for subnet in made.subnets))
            machine.container = container
            machines.machines[name] = machine
        return machines

    # -- using it --------------------------------------------------------------------------------------

    def machine(self, name: str) -> Machine:
        """Return the machine of that name."""
        return self.machines[name]

    def play(self, playbook: str, *arguments: str, timeout_seconds: float = 1800) -> plays.Played:
        """Run a play of ``ansible/`` on the machines."""
        return plays.play(playbook, self.inventory, *arguments, timeout_seconds=timeout_seconds)


def _number(name: str) -> int:
    """Return the last part of a machine's addresses."""
    return _HUB_NUMBER + 1 if name == _HUB else 100 + int(name.removeprefix("gpu"))


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Bare machines to try the plays of ansible/ on.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a hub and servers")
    up.add_argument("name", help="what to call them together")
    up.add_argument("--count", type=int, default=2, help="how many servers (2)")
    up.add_argument("--debian", choices=("bookworm", "trixie"), default="bookworm")
    up.add_argument("--bare", action="store_true", help="without the packages that the roles install")
    add = commands.add_parser("add", help="start one more server")
    add.add_argument("name")
    add.add_argument("machine", help="gpu03, say")
    add.add_argument("--debian", choices=("bookworm", "trixie"), default="")
    commands.add_parser("down", help="remove them").add_argument("name")
    given = parser.parse_args()
    folder = ROOT / ".state" / "machines" / given.name
    if given.command == "up":
        assert not folder.exists(), f"{given.name} is there already: `{sys.argv[0]} down {given.name}` removes it"
        options = {"count": given.count, "debian": given.debian, "bare": given.bare}
        machines = Machines(folder, **options, owned=False).start()
        print(f"{', '.join(machines.machines)} run. Their inventory: {machines.inventory}")
        print(f"cd ansible && {plays.programs()}/ansible-playbook -i {machines.inventory} site.yml")
        print(f"docker exec -it {machines.machine(_HUB).container[:12]} bash")
    elif given.command == "add":
        Machines.find(folder).add(given.machine, given.debian)
    else:
        if (folder / _RECORD).exists():
            Machines.find(folder).stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
