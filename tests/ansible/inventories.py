"""The inventory of a fleet of test machines, written as an admin would write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents import write_private
from ansible.machine import Access
from cluster_pki import Authority

DOMAIN = "hub.test"
PASSWORD = "a-password-for-everybody"
BACKUPS = "/srv/backups"
"""Where on the hub a disk is mounted that is not the hub's own."""

_HOSTS = """\
# Machines for a test; each is a container.
all:
  vars:
    ansible_user: root
    ansible_ssh_private_key_file: {key}
    # Only the machines themselves are trusted, and no setting of the person who runs this.
    ansible_ssh_common_args: -F none -o UserKnownHostsFile={known_hosts}
  children:
    hub:
      hosts:
        {hub}
    gpu_servers:
      hosts:
        {servers}
    homes_server:
      hosts:
        hub:
"""
_SETTINGS = """\
# -- the course --------------------------------------------------------------------------------------
fleet_domain: {domain}
# Demo login, and pages that say that this is a trial.
fleet_trial: true
# These machines have no card: each gets so many that exist only as readings.
fleet_simulated_gpus: {gpus}

# -- the way in --------------------------------------------------------------------------------------
# A given certificate, for the name and everything below it; Chromium trusts ca.pem beside it.
tls_mode: given
tls_certificate: "{{{{ inventory_dir }}}}/tls/hub.pem"
tls_key: "{{{{ inventory_dir }}}}/tls/hub-key.pem"
hub_demo_password: {password}

# -- engines -----------------------------------------------------------------------------------------
# The machine that runs the tests may allow less than a server does.
docker_open_files: 16384
# What is free there is for all machines together, and nobody fills it.
preflight_disk_gigabytes: {{hub: 1, server: 1, later: 1}}

# -- homes -------------------------------------------------------------------------------------------
# The kernel has no NFS: a folder of the machine that runs the tests is mounted on all machines.
homes_kind: mounted

# -- backup ------------------------------------------------------------------------------------------
# A disk that outlives the hub.
backup_repository: {backups}/restic
"""


@dataclass(frozen=True)
class Place:
    """Where a machine is reached, from outside and inside the fleet's encrypted network."""

    name: str
    outer: str
    inner: str

    @property
    def line(self) -> str:
        """The machine as a line of the inventory."""
        return f"{self.name}: {{ansible_host: {self.outer}, wireguard_address: {self.inner}}}"


@dataclass(frozen=True)
class Inventory:
    """The folder for ``ansible-playbook -i``."""

    folder: Path

    def write(self, access: Access, hub: Place, servers: Sequence[Place]) -> None:
        """Write who is who."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = "\n        ".join(place.line for place in servers) or "{}"
        text = _HOSTS.format(key=access.key, known_hosts=access.known_hosts, hub=hub.line, servers=lines)
        (self.folder / "hosts.yml").write_text(text)

    def write_settings(self, gpus: int) -> None:
        """Write what an admin fills in, and the certificate that people's browsers are shown."""
        everywhere = self.folder / "group_vars" / "all"
        everywhere.mkdir(parents=True)
        given = _SETTINGS.format(domain=DOMAIN, gpus=gpus, password=PASSWORD, backups=BACKUPS)
        (everywhere / "settings.yml").write_text(given)
        authority = Authority(self.folder / "tls")
        authority.write("hub", authority.issue(DOMAIN))

    def write_more(self, name: str, variables: Mapping[str, str]) -> None:
        """Write further settings, which win over the others: a file of YAML lines."""
        lines = "".join(f"{key}: {value}\n" for key, value in variables.items())
        write_private(self.folder / "group_vars" / "all" / f"test-{name}.yml", lines.encode())
