"""Disks of the tests' servers, with images on them before a server starts.

All lie in one volume of this machine's engine. An image is loaded once into a *seed*, by an engine just for
that; a server's disk is a copy of it in which the layers' files are hard links: quick, and no further space.
That is safe, since an engine writes into no layer of an image, it only removes links to it.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence

from hubs import docker

VOLUME = "idlhub-test-servers"
LABEL = "idlhub.test-cluster"
CAPABILITIES = (
    # What --privileged gives, less the capability that some virtual machines withhold.
    *("--cap-add=ALL", "--cap-drop=SYS_RESOURCE"),
    *(
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--security-opt=systempaths=unconfined",
    ),
    "--cgroupns=private",
    # /dev/kmsg stands for a device beyond those that every container has.
    "--device-cgroup-rule=c 1:11 rwm",
)
_FILL_SECONDS = 280
_COPY_SECONDS = 300
_COPY = """
set -e
exec 9>/disks/lock
flock --shared 9
mkdir -p "/disks/runs/$1"
cd "/disks/runs/$1"
shift
seed=$1
shift
for server in "$@"; do
    mkdir -p "$server/containerd" "$server/docker"
    [ -n "$seed" ] || continue
    cp -al "/disks/seeds/$seed/overlay2" "$server/docker/overlay2"
    for part in "/disks/seeds/$seed"/*; do
        case $part in
            */overlay2 | */engine-id | */tmp | */runtimes) ;;
            *) cp -a "$part" "$server/docker/" ;;
        esac
    done
done
"""
_FILL = """
set -e
exec 9>/disks/lock
flock --exclusive 9
[ ! -e "/disks/seeds/$1" ] || { cat >/dev/null; exit 0; }
rm -rf /disks/filling /var/lib/docker
mkdir -p /disks/filling /disks/seeds
mkdir /var/lib/docker
mount --bind /disks/filling /var/lib/docker
/usr/local/bin/fill-disk
umount /var/lib/docker
for old in "/disks/seeds/$2-"*; do rm -rf "$old"; done
mv /disks/filling "/disks/seeds/$1"
"""
_REMOVE = 'cd /disks/runs && for run in "$@"; do rm -rf "./$run"; done'


class Disks:
    """The disks of one cluster's servers; `remove` takes them away."""

    def __init__(self, run: str, server_image: str) -> None:
        self._run = run
        self._server_image = server_image
        docker("volume", "create", "--label", f"{LABEL}=disks", VOLUME)
        self._mountpoint = docker("volume", "inspect", "--format", "{{.Mountpoint}}", VOLUME)

    def make(self, servers: Sequence[str], images: Sequence[str]) -> None:
        """Make each server's disk, with these images of this machine's engine on it."""
        seed = self._seed(images) if images else ""
        self._in_volume(_COPY, self._run, seed, *servers)

    def options(self, server: str) -> list[str]:
        """Return what ``docker create`` needs to give a server its disk."""
        folder = f"{self._mountpoint}/runs/{self._run}/{server}"
        return ["--volume", f"{folder}/docker:/var/lib/docker", "--volume", f"{folder}/containerd:/var/lib/containerd"]

    def discard(self, server: str) -> None:
        """Remove the disk of one server, which is gone."""
        self._in_volume('rm -rf "/disks/runs/$1/$2"', self._run, server)

    def remove(self) -> None:
        """Remove the disks of this cluster."""
        remove_runs(self._server_image, [self._run])

    def _seed(self, images: Sequence[str]) -> str:
        ids = [docker("image", "inspect", "--format", "{{.Id}}", image) for image in images]
        made_of = hashlib.sha256("\n".join([self._server_image, *images, *ids]).encode()).hexdigest()[:24]
        family = hashlib.sha256("\n".join(images).encode()).hexdigest()[:8]
        seed = f"{family}-{made_of}"
        known = self._in_volume("ls /disks/seeds 2>/dev/null || true").split()
        if seed not in known:
            self._fill(seed, family, images)
        return seed

    def _fill(self, seed: str, family: str, images: Sequence[str]) -> None:
        fill = ["docker", "run", "--rm", "--interactive", "--network=none", *CAPABILITIES, "--label", f"{LABEL}=disks"]
        fill += ["--volume", f"{VOLUME}:/disks", self._server_image, "bash", "-c", _FILL, "fill", seed, family]
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
            filled = subprocess.run(fill, stdin=save.stdout, capture_output=True, text=True, timeout=_FILL_SECONDS)
            assert save.stdout is not None
            save.stdout.close()
        assert filled.returncode == 0, f"no disk could be made: {filled.stdout}{filled.stderr}"

    def _in_volume(self, script: str, *arguments: str) -> str:
        return in_volume(self._server_image, script, *arguments)


def remove_runs(server_image: str, runs: Sequence[str]) -> None:
    """Remove the disks of clusters that are gone."""
    if runs:
        in_volume(server_image, _REMOVE, *runs)


def in_volume(server_image: str, script: str, *arguments: str) -> str:
    """Run a shell script with all disks at ``/disks``; return what it printed."""
    command = ["docker", "run", "--rm", "--network=none", "--label", f"{LABEL}=disks"]
    command += ["--volume", f"{VOLUME}:/disks", server_image, "bash", "-c", script, "disks", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COPY_SECONDS)
    assert done.returncode == 0, f"disks: {done.stderr}"
    return done.stdout
