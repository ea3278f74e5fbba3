"""What all test clusters on this machine's engine share: a network each, labels, and the removal of forgotten ones."""

from __future__ import annotations

import ipaddress
import secrets
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
from cluster_disks import LABEL, VOLUME, remove_runs
from hubs import docker

_OWNER_LABEL = "idlhub.test-owner"


def labels(run: str, *, owned: bool = True) -> list[str]:
    """Return what ``docker create`` labels a cluster with; an `owned` one is removed when this process is gone."""
    owner = ["--label", f"{_OWNER_LABEL}={_owner()}"] if owned else []
    return ["--label", f"{LABEL}={run}", *owner]


def make_network(run: str, labelled: list[str]) -> list[str]:
    """Make a cluster's network at addresses that no other network here has; return its subnets, IPv4 first."""
    for _ in range(50):
        number = secrets.randbelow(256)
        subnets = [f"10.77.{number}.0/24", f"fd77:{secrets.randbelow(65536):x}:{number:x}::/64"]
        words = [word for subnet in subnets for word in ("--subnet", subnet, "--gateway", host(subnet, 1))]
        made = subprocess.run(
            ["docker", "network", "create", "--ipv6", *words, *labelled, run],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if made.returncode == 0:
            return subnets
        assert "overlaps" in made.stderr, made.stderr
    raise AssertionError("every address of 10.77.0.0/16 seems to be taken; remove old networks of tests")


def host(subnet: str, number: int) -> str:
    """Return an address of a subnet, whose last part reads like the number."""
    network = ipaddress.ip_network(subnet)
    return str(network[int(str(number), 16)] if network.version == 6 else network[number])


def remove(run: str) -> None:
    """Remove a cluster's containers and network."""
    label = f"label={LABEL}={run}"
    if containers := docker("ps", "-a", "-q", "--filter", label).split():
        docker("rm", "--force", "--volumes", *containers)
    if networks := docker("network", "ls", "-q", "--filter", label).split():
        docker("network", "rm", *networks)


def remove_forgotten(image: str) -> None:
    """Remove clusters whose process was killed."""
    shown = '{{.Label "' + LABEL + '"}}\t{{.Label "' + _OWNER_LABEL + '"}}'
    listed = docker("ps", "-a", "--filter", f"label={_OWNER_LABEL}", "--format", shown).splitlines()
    listed += docker("network", "ls", "--filter", f"label={_OWNER_LABEL}", "--format", shown).splitlines()
    owners = dict(line.split("\t") for line in listed)
    gone = [run for run, owner in owners.items() if _is_gone(owner)]
    for run in gone:
        remove(run)
    if gone and VOLUME in docker("volume", "ls", "-q").split():
        remove_runs(image, gone)


def _owner() -> str:
    """Return who made a cluster: a process, told from another that gets its number later or in another container."""
    process = psutil.Process()
    return f"{Path('/proc/self/ns/pid').readlink()} {process.pid} {process.create_time()}"


def _is_gone(owner: str) -> bool:
    namespace, pid, created = owner.split(" ")
    if namespace != str(Path("/proc/self/ns/pid").readlink()):
        return False  # nobody knows from here
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(pid))
        return process.create_time() != float(created) or process.status() == psutil.STATUS_ZOMBIE
    return True
