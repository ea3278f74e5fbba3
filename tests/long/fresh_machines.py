"""Machines that have never seen this project: containers with a Debian of their own and their own Docker engine."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from script.lib.places import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGES = "ca-certificates,passwd,python3,git,sudo,systemd,systemd-sysv,dbus,iproute2,procps"
CERTIFICATES = Path("/usr/local/share/ca-certificates")
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "npm_config_registry", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CHECKOUT = "/home/tester/idl_hub"
# The engine inside needs its cgroups and mounts writable; --privileged asks for more than some machines give.
RIGHTS = ["--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--cgroupns=private"]
RIGHTS += [f"--security-opt={option}=unconfined" for option in ("seccomp", "apparmor", "systempaths")]
PREPARE = (
    "mount -o remount,rw /sys; mount -o remount,rw /sys/fs/cgroup; "
    'for controller in /sys/fs/cgroup/*/; do mount -o remount,bind,rw "$controller"; done; '
    "mount --make-rshared /; "
)
BOOT_SECONDS = 60
FIRST_PROCESS = {"systemd": "exec /sbin/init", "no systemd": "exec sleep infinity"}


def call(*command: str, given: bytes | None = None, deadline_seconds: float = 600) -> str:
    """Run a command; fail with what it said when it fails."""
    ended = subprocess.run(command, input=given, capture_output=True, timeout=deadline_seconds, check=False)
    said = (ended.stdout + ended.stderr).decode(errors="replace")
    assert ended.returncode == 0, f"{' '.join(command)} ended with {ended.returncode}:\n{said[-3000:]}"
    return ended.stdout.decode(errors="replace")


def make_debian(suite: str, folder: Path) -> str:
    """Make an image of a Debian release from its packages and return the image's name."""
    archive = folder / f"{suite}.tar"
    call("mmdebstrap", "--variant=apt", f"--include={PACKAGES}", suite, str(archive))
    name = f"idl-hub/fresh-test:{suite}"
    call("docker", "import", str(archive), name)
    archive.unlink()
    return name


@dataclass(frozen=True)
class Machine:
    """A machine with a checkout in the home of the user `tester`, who may use sudo."""

    name: str
    user: str

    @classmethod
    def start(cls, image: str, user: str, first_process: str) -> Machine:
        """Start the machine and copy this checkout onto it."""
        name = f"idl-hub-fresh-{uuid.uuid4().hex[:8]}"
        volumes = ["--volume=/var/lib/docker", "--volume=/var/lib/containerd"]
        options = ["--hostname=fresh", "--tmpfs=/run", "--tmpfs=/run/lock", "--tty", "--env=container=docker"]
        boot = ["/bin/sh", "-c", PREPARE + FIRST_PROCESS[first_process]]
        call("docker", "run", "--detach", f"--name={name}", *RIGHTS, *volumes, *options, image, *boot)
        machine = cls(name, user)
        try:
            machine._await_boot(first_process)
            machine._trust_what_this_machine_trusts()
            machine.root("useradd -m -s /bin/bash -G sudo tester")
            machine.root("echo 'tester ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/tester")
            machine._copy_checkout()
        except BaseException:
            machine.remove()
            raise
        return machine

    def remove(self) -> None:
        """Remove the machine and its disks."""
        call("docker", "rm", "--force", "--volumes", self.name)

    def root(self, script: str, given: bytes | None = None) -> str:
        """Run a shell script on it as root."""
        return call("docker", "exec", "--interactive", self.name, "sh", "-c", script, given=given)

    def _await_boot(self, first_process: str) -> None:
        """Wait until systemd is done: on the way it mounts a new /tmp over the old one."""
        deadline = time.monotonic() + BOOT_SECONDS
        while first_process == "systemd":
            state = self.root("systemctl is-system-running 2>&1 || true").strip()
            if state in {"running", "degraded"}:
                return
            assert time.monotonic() < deadline, f"systemd is still {state} after {BOOT_SECONDS} s"
            time.sleep(0.2)

    def _trust_what_this_machine_trusts(self) -> None:
        if not any(CERTIFICATES.glob("*.crt")):
            return
        call("docker", "cp", f"{CERTIFICATES}/.", f"{self.name}:{CERTIFICATES}")
        self.root("update-ca-certificates")
        self.root("printf '[global]\\ncert=/etc/ssl/certs/ca-certificates.crt\\n' > /etc/pip.conf")

    def _copy_checkout(self) -> None:
        listed = call("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
        packed = subprocess.run(
            ["tar", "-C", str(ROOT), "--null", "-T", "-", "-cf", "-"],
            input="\0".join(names).encode(),
            capture_output=True,
            check=True,
            timeout=60,
        )
        self.root(f"mkdir -p {CHECKOUT} && tar -C {CHECKOUT} -xf - && chown -R {self.user}: {CHECKOUT}", packed.stdout)

    def start_server(self, log: Path, *options: str) -> subprocess.Popen[bytes]:
        """Begin script/server on the machine as its user, its output going to a file here."""
        home = "/root" if self.user == "root" else f"/home/{self.user}"
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"HOME": home}
        variables["NODE_EXTRA_CA_CERTS"] = "/etc/ssl/certs/ca-certificates.crt"
        passed = [f"--env={name}={value}" for name, value in variables.items()]
        inside = ["docker", "exec", f"--user={self.user}", f"--workdir={CHECKOUT}", *passed, self.name]
        with log.open("wb") as file:
            command = [*inside, "script/server", *options]
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def processes(self) -> list[str]:
        """Return the command lines of script/server, hub, GPU pages and proxy, as far as they run."""
        programs = ("script.lib.server", "bin/jupyterhub", "idl-hub web", "configurable-http-proxy")
        lines = self.root("ps -eo pid,args").splitlines()
        return [line for line in lines if any(program in line for program in programs)]

    def kill_set_up(self) -> None:
        """Kill script/server with SIGKILL, wherever it is."""
        self.root("pkill -KILL -f 'script[.]lib[.]server'")

    def record(self) -> dict[str, object]:
        """Return what script/server says of itself while it runs."""
        content: dict[str, object] = json.loads(self.root(f"cat {CHECKOUT}/.state/server.json"))
        return content


def wait_for_line(log: Path, texts: Sequence[str], process: subprocess.Popen[bytes], deadline_seconds: float) -> str:
    """Return the first of the texts that appears in a log; fail when its program ends or is late."""
    deadline = time.monotonic() + deadline_seconds
    while True:
        content = log.read_text(errors="replace")
        for text in texts:
            if text in content:
                return text
        assert process.poll() is None, f"script/server ended with {process.returncode}:\n{content[-4000:]}"
        assert time.monotonic() < deadline, f"none of {texts} within {deadline_seconds:.0f} s:\n{content[-4000:]}"
        time.sleep(0.1)
