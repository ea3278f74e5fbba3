"""Which container a process of this server belongs to, from its cgroup.

Docker and containerd end the name of a container's cgroup with its id, under every cgroup driver::

    /docker/ID                                      cgroupfs
    /system.slice/docker-ID.scope                   systemd
    /kubepods/burstable/podUID/ID                   Kubernetes, cgroupfs
    /kubepods.slice/…/cri-containerd-ID.scope       Kubernetes, systemd
    /system.slice/containerd.service/…:cri-containerd:ID
    /docker/ID/docker/ID                            an engine inside a container
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from idl_hub.gpus.reading import ProcessOrigin

PROC = Path("/proc")
_HOST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO of the kernel: a fixed number."""
_CONTAINER = re.compile(r"(?:^|[-:])([0-9a-f]{64})(?:\.scope)?$")
_USERS = "user.slice"
_REAL_UID = re.compile(rb"^Uid:\s+(\d+)", re.MULTILINE)
_PIDS = re.compile(rb"^NSpid:((?:\s+\d+)+)", re.MULTILINE)
"""From the reader's PID namespace inwards: the last one is the process's own view."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a process runs and whose it is."""

    origin: ProcessOrigin = ProcessOrigin.UNKNOWN
    container_id: str | None = None
    uid: int | None = None
    pid_in_container: int | None = None


NOWHERE = Whereabouts()


class HostProcesses:
    """The processes of this server.

    Parameters
    ----------
    proc
        Where procfs is mounted. It must show the host's processes, because NVML gives the host's PIDs.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc

    def are_the_hosts(self) -> bool:
        """Return whether the PIDs here are the host's, and not those of a PID namespace in it."""
        try:
            return str((self._proc / "self" / "ns" / "pid").readlink()) == _HOST_PID_NAMESPACE
        except OSError:
            return False

    def find(self, pid: int) -> Whereabouts:
        """Return where a process runs; what is gone or hidden is `NOWHERE`. Never waits for the process."""
        folder = self._proc / str(pid)
        try:
            cgroup = (folder / "cgroup").read_text(encoding="utf-8", errors="replace")
            status = (folder / "status").read_bytes()
        except OSError:  # gone, or hidden (hidepid)
            return NOWHERE
        uid = _REAL_UID.search(status)
        if not cgroup or uid is None:
            return NOWHERE  # it ended between two looks
        container_id = container_of(cgroup)
        origin = ProcessOrigin.OUTSIDE if container_id is None else ProcessOrigin.CONTAINER
        return Whereabouts(origin, container_id, int(uid[1]), _innermost(status) if container_id else None)


def _innermost(status: bytes) -> int | None:
    pids = _PIDS.search(status)
    return int(pids[1].split()[-1]) if pids else None


def container_of(cgroup: str) -> str | None:
    """Return the container that ``/proc/PID/cgroup`` names, None for none.

    Of containers inside a container it is the outermost: the one that this server's engine knows.
    What lies under ``user.slice`` counts as no container: there, users name cgroups as they like.
    """
    for line in cgroup.splitlines():
        _, _, path = line.partition(":")  # hierarchy : controllers : path
        _, _, path = path.partition(":")
        parts = path.removesuffix(" (deleted)").split("/")
        if _USERS in parts:
            continue
        for part in parts:
            found = _CONTAINER.search(part)
            if found:
                return found[1]
    return None
