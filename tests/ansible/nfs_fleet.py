"""A file server that role homes has set up, and machines of the fleet that use it, each a container."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import cluster_runs
from ansible.machine_images import machine_image
from cluster_box import Box
from cluster_disks import CAPABILITIES
from cluster_image import ROOT
from hubs import docker, wait_for

from ansible import plays
from images.builder import inputs
from images.builder.engine import Engine, find_docker
from images.builder.steps import Reporter

HOMES, SNAPSHOTS = "/srv/idl_hub/homes", "/srv/idl_hub/snapshots"
_NUMBERS = {"files": 3, "hub": 2, "gpu01": 11, "gpu02": 12, "stranger": 50}
_LABEL = "idlhub.nfs-inputs"
_READY_SECONDS = 60
_PLAY = f"""\
- hosts: files
  gather_facts: false
  roles:
    - role: homes
  tasks:
    # What the kernel's server would be told; this kernel has none.
    - ansible.builtin.include_role: {{name: {ROOT}/ansible/roles/homes, tasks_from: nfs_exports}}
# Nor a client: the mounts are written, and not made.
- hosts: gpu01
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {{name: {ROOT}/ansible/roles/homes, tasks_from: mount_units}}
"""


@cache
def nfs_image() -> str:
    """Return the image's id; making it takes about 15 seconds, and nothing when it is up to date."""
    engine = Engine(find_docker(), Reporter(quiet=True))
    name, base = "idl-hub/nfs-test:bookworm", machine_image()
    files = tuple(inputs.read_tree(ROOT / "tests" / "ansible" / "nfs_image"))
    wanted = inputs.fingerprint(files, {}, base)
    if engine.label(name, _LABEL) != wanted:
        tar, arguments = inputs.as_tar(files), {"BASE": "idl-hub/machine-test:bookworm"}
        engine.build("Build a file server's image", name, tar, arguments, f"{_LABEL}={wanted}", fresh=False)
        engine.remove_replaced(_LABEL)
    made = engine.image_id(name)
    assert made, f"{name} is gone right after it was made"
    return made


class NFSFleet:
    """Machines ``files``, ``hub``, ``gpu01``, ``gpu02``, and a ``stranger`` in their network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.boxes: dict[str, Box] = {}
        self._run = f"idlhub-nfs-{secrets.token_hex(4)}"

    def __enter__(self) -> NFSFleet:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> NFSFleet:
        """Start the machines; nothing is set up on them yet."""
        image, labels = nfs_image(), cluster_runs.labels(self._run)
        subnet = cluster_runs.make_network(self._run, labels)[0]
        for name, number in _NUMBERS.items():
            box = Box(name, cluster_runs.host(subnet, number), "")
            command = ["run", "--detach", "--hostname", name, "--network", self._run, "--ip", box.address, *labels]
            if name == "files":
                # A disk of its own, whose file system a server of NFS can work with.
                command += ["--tty", *CAPABILITIES, "--tmpfs", "/run", "--tmpfs", "/run/lock", "--volume=/srv/idl_hub"]
                box.container = docker(*command, image)
            else:
                box.container = docker(*command, "--init", "--entrypoint=sleep", image, "infinity")
            self.boxes[name] = box
        files = self.boxes["files"]
        wait_for(lambda: files.exec("systemctl", "is-active", "dbus", check=False) == "active", "dbus", _READY_SECONDS)
        files.exec("touch", "/var/lib/apt/lists", "/var/lib/apt/periodic/update-success-stamp")
        return self

    def stop(self) -> None:
        """Remove all of it."""
        cluster_runs.remove(self._run)

    def play(self, servers: Sequence[str], *arguments: str) -> plays.Played:
        """Run role homes for a fleet of these servers; `arguments` go to ansible-playbook."""
        inventory, play = self.folder / "inventory" / "hosts.json", self.folder / "homes.yml"
        inventory.parent.mkdir(parents=True, exist_ok=True)
        hosts = {
            name: {"ansible_host": box.container, "wireguard_address": box.address} for name, box in self.boxes.items()
        }
        variables = {
            "ansible_connection": "community.docker.docker",
            "fleet_domain": "hub.test",
            "homes_server_kind": "ganesha",
        }
        groups = {"hub": ["hub"], "homes_server": ["files"], "gpu_servers": servers}
        children = {group: {"hosts": {name: hosts[name] for name in names}} for group, names in groups.items()}
        inventory.write_text(json.dumps({"all": {"vars": variables, "children": children}}))
        play.write_text(_PLAY)
        return plays.play(str(play), inventory, *arguments, timeout_seconds=200)

    def use(self, machine: str, export: str, uid: int, *steps: Sequence[str | int]) -> list[str | None]:
        """Mount an export on a machine as a user and take steps; return what the mount and each step failed with."""
        command = ["python3", "/usr/local/bin/nfs_client.py", self.boxes["files"].address, export, str(uid)]
        said = self.boxes[machine].exec(*command, given=json.dumps(steps))
        answers: list[str | None] = json.loads(said)
        return answers

    def exports(self) -> Mapping[tuple[str, str], frozenset[str]]:
        """Return what the kernel's exportfs understands of the role's exports: (folder, client) -> options."""
        files = self.boxes["files"]
        files.exec("exportfs", "-ra")
        lines = [line.split() for line in files.exec("cat", "/var/lib/nfs/etab").splitlines()]
        clients = [(folder, *client.rstrip(")").split("(")) for folder, client in lines]
        return {(folder, client): frozenset(options.split(",")) for folder, client, options in clients}
