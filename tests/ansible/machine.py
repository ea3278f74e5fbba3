"""One bare machine: a container with systemd, sshd and Python, and a Docker disk that may hold images already."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster_box import Box
from cluster_disks import CAPABILITIES
from hubs import docker, wait_for

_FRESH_LISTS = "touch /var/lib/apt/lists /var/lib/apt/periodic/update-success-stamp"
_READY_SECONDS = 180
_KNOWN_HOSTS = threading.Lock()
"""Machines are made side by side, and each changes the one file of those that are known."""


@dataclass(frozen=True)
class Access:
    """What an admin has to reach machines by ssh: a key pair, and whom to trust; files on this machine."""

    key: Path
    known_hosts: Path

    @classmethod
    def make(cls, folder: Path) -> Access:
        """Make a key pair in a folder."""
        access = cls(folder / "ssh_key", folder / "known_hosts")
        _make_key(access.key, "admin")
        access.known_hosts.touch()
        return access

    @property
    def public(self) -> bytes:
        """The public key, as it stands in ``authorized_keys``."""
        return self.key.with_suffix(".pub").read_bytes()

    def trust(self, address: str, host_key: str) -> None:
        """Know a machine by its key, and by no earlier one."""
        kind, key = host_key.split()[:2]
        with _KNOWN_HOSTS:
            kept = [line for line in self.known_hosts.read_text().splitlines() if not line.startswith(f"{address} ")]
            self.known_hosts.write_text("\n".join([*kept, f"{address} {kind} {key}", ""]))


class Machine(Box):
    """A machine; `Machines` makes and removes it."""

    def create(self, image: str, options: Sequence[str], folders: Mapping[Path, str]) -> None:
        """Make the container, which does not run yet; `folders` of this machine are mounted."""
        command = ["create", "--tty", "--hostname", self.name, "--network-alias", self.name]
        command += ["--ip", self.address, "--ip6", self.address6, *CAPABILITIES, *options]
        # WireGuard without a kernel that has it.
        command += ["--device", "/dev/net/tun", "--tmpfs", "/run", "--tmpfs", "/run/lock"]
        for source, target in folders.items():
            command += ["--volume", f"{source}:{target}"]
        self.container = docker(*command, image)

    def admit(self, access: Access, folder: Path) -> None:
        """Let the admin in as root, with a host key made now in `folder`."""
        key = folder / f"host_key_{self.name}"
        _make_key(key, self.name)
        public = key.with_suffix(".pub").read_text()
        self.write(
            {
                "etc/ssh/ssh_host_ed25519_key": key.read_bytes(),
                "etc/ssh/ssh_host_ed25519_key.pub": public.encode(),
                "root/.ssh/authorized_keys": access.public,
            }
        )
        access.trust(self.address, public)

    def start(self, access: Access, *, fresh_lists: bool = True) -> None:
        """Switch the machine on and return when ssh lets the admin in.

        Parameters
        ----------
        access
            The admin.
        fresh_lists
            Let apt believe that it has just looked for new packages.
        """
        docker("start", self.container)
        wait_for(lambda: self.ssh(access, "true").returncode == 0, f"ssh of {self.name}", _READY_SECONDS)
        if fresh_lists:
            self.exec("sh", "-c", _FRESH_LISTS)

    def trust(self, authority: bytes) -> None:
        """Trust an authority as organisations have it installed: the images that are built here do not learn of it."""
        self.write({"usr/share/ca-certificates/organisation.crt": authority}, mode=0o644)
        self.exec("sh", "-c", "echo organisation.crt >>/etc/ca-certificates.conf && update-ca-certificates")

    def kill(self) -> None:
        """Take the power away; `start` brings it back."""
        docker("kill", self.container)

    def remove(self) -> None:
        """Throw the machine away."""
        docker("rm", "--force", "--volumes", self.container)

    def ssh(self, access: Access, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the admin does."""
        known = ["-o", f"UserKnownHostsFile={access.known_hosts}", "-o", "BatchMode=yes", "-o", "ConnectTimeout=3"]
        words = ["ssh", "-F", "none", "-i", str(access.key), *known, f"root@{self.address}", *command]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def _make_key(path: Path, comment: str) -> None:
    for old in (path, path.with_suffix(".pub")):
        old.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
