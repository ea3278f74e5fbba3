"""One server of the tests' cluster: a container with its own systemd, Docker engine, agent and sshd."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from cluster_box import Box
from cluster_disks import CAPABILITIES
from cluster_pki import Issued
from hubs import ROOT, docker, wait_for

from idl_hub.gpus.simulator import Simulator
from idl_hub.servers import daemon

AGENT_PORT = 9810
STUDENT_NETWORK = "idlhub"
STUDENT_BRIDGE = "idlhub0"
SIMULATOR_STATE = "/srv/simulated-gpus/state"
"""Where on every server its simulated GPUs are."""
_LIBRARY = "/srv/simulator"
_HOMES_SOURCE = "/srv/homes"
_OPEN_FILES = 16_384  # the machine that runs the tests may allow less than a server does
_READY_SECONDS = 90
_CUT = """
table inet tests_cut {
    chain in { type filter hook prerouting priority -500; iifname "eth0" drop; }
    chain out { type filter hook postrouting priority 500; oifname "eth0" drop; }
}
"""


@dataclass(frozen=True)
class Keys:
    """What the hub reaches a server with: files on this machine."""

    authority: Path
    certificate: Path
    key: Path
    token: Path


class Server(Box):
    """A server; `Cluster` makes and removes it.

    Attributes
    ----------
    simulator
        Its GPUs.
    """

    def __init__(self, name: str, address: str, address6: str, simulator: Simulator, homes: Path, keys: Keys) -> None:
        super().__init__(name, address, address6)
        self.simulator = simulator
        self.homes = homes
        self.keys = keys

    # -- making it ------------------------------------------------------------------------------

    def create(self, image: str, options: list[str], library: Path) -> None:
        """Make the container, which does not run yet."""
        mounts = {
            f"{self.simulator.path.parent}": str(Path(SIMULATOR_STATE).parent),
            f"{library.parent}": f"{_LIBRARY}:ro",
            f"{ROOT / 'idl_hub'}": "/opt/idl_hub/code/idl_hub:ro",
        }
        mounts |= {f"{self.homes}": f"{self.homes}"}
        command = ["create", "--tty", "--hostname", self.name, "--network-alias", self.name]
        command += ["--ip", self.address, "--ip6", self.address6, *CAPABILITIES, *options]
        command += ["--tmpfs", "/run", "--tmpfs", "/run/lock"]
        for source, target in mounts.items():
            command += ["--volume", f"{source}:{target}"]
        # What was unmounted at its own path can be mounted again from here.
        command += ["--volume", f"{self.homes}:{_HOMES_SOURCE}"]
        self.container = docker(*command, image)

    def configure(self, issued: Issued, authority: bytes, registry: str, **more: Any) -> None:
        """Write the configuration of engine and agent; `more` goes to `daemon.daemon_settings`."""
        certificates = daemon.Certificates()
        settings = daemon.daemon_settings(self.address, certificates, **({"open_files": _OPEN_FILES} | more))
        environment = [f"SERVER={self.name}", f"ADDRESS={self.address}", f"LD_LIBRARY_PATH={_LIBRARY}"]
        environment.append(f"IDLHUB_SIMULATOR_STATE={SIMULATOR_STATE}")
        self.write(
            {
                "etc/docker/daemon.json": json.dumps(settings, indent=2).encode(),
                str(certificates.authority)[1:]: authority,
                str(certificates.certificate)[1:]: issued.certificate,
                str(certificates.key)[1:]: issued.key,
                f"etc/docker/certs.d/{registry}/ca.crt": authority,
                "etc/systemd/system/docker.service.d/idlhub.conf": daemon.SERVICE_DROP_IN.encode(),
                "etc/idl-hub/agent/environment": "\n".join(environment).encode(),
                "etc/idl-hub/agent/token": self.keys.token.read_bytes(),
                "etc/idl-hub/agent/certificate.pem": issued.certificate,
                "etc/idl-hub/agent/key.pem": issued.key,
            }
        )

    # -- power ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch the server on and return when engine and agent answer."""
        docker("start", self.container)
        self.wait_ready()

    def kill(self) -> None:
        """Take the power away; `start` brings it back."""
        docker("kill", self.container)

    def wait_ready(self) -> None:
        """Return when engine and agent answer."""
        wait_for(self.engine_answers, f"the engine of {self.name}", _READY_SECONDS)
        wait_for(self.agent_answers, f"the agent of {self.name}", _READY_SECONDS)

    # -- the engine -------------------------------------------------------------------------------

    @property
    def engine_url(self) -> str:
        return f"tcp://{self.address}:{daemon.PORT}"

    def engine_answers(self, seconds: float = 2) -> bool:
        """Whether the engine answers the hub."""
        keys = self.keys
        try:
            with requests.Session() as session:
                session.trust_env = False
                session.verify, session.cert = str(keys.authority), (str(keys.certificate), str(keys.key))
                return session.get(f"https://{self.address}:{daemon.PORT}/_ping", timeout=seconds).ok
        except requests.RequestException:
            return False

    def pause_engine(self) -> None:
        """Let the engine hang: it accepts connections and says nothing."""
        self.exec("kill", "-STOP", self._engine_pid())

    def resume_engine(self) -> None:
        self.exec("kill", "-CONT", self._engine_pid())
        wait_for(self.engine_answers, f"the engine of {self.name}", _READY_SECONDS)

    def restart_engine(self) -> None:
        """Restart the engine as an admin does, and return when it answers."""
        self.exec("systemctl", "restart", "docker.service")
        wait_for(self.engine_answers, f"the engine of {self.name}", _READY_SECONDS)

    def kill_engine(self) -> None:
        """Kill the engine with SIGKILL, and return when systemd has brought it back."""
        before = self._engine_pid()
        self.exec("kill", "-KILL", before)
        wait_for(lambda: self._engine_pid() not in (before, "0"), f"another engine on {self.name}", _READY_SECONDS)
        wait_for(self.engine_answers, f"the engine of {self.name}", _READY_SECONDS)

    def _engine_pid(self) -> str:
        return self.exec("systemctl", "show", "--property=MainPID", "--value", "docker.service")

    def make_student_network(self) -> None:
        """Make the bridge of the students' containers, who do not see each other, unless it is there."""
        if STUDENT_NETWORK not in self.docker("network", "ls", "--format", "{{.Name}}").split():
            options = {"bridge.name": STUDENT_BRIDGE, "bridge.enable_icc": "false"}
            words = [word for key, value in options.items() for word in ("-o", f"com.docker.network.{key}={value}")]
            self.docker("network", "create", *words, STUDENT_NETWORK)

    def load(self, image: str) -> None:
        """Bring an image of this machine's engine to the server's."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
            load = ["docker", "exec", "--interactive", self.container, "docker", "load", "--quiet"]
            loaded = subprocess.run(load, stdin=save.stdout, capture_output=True, text=True, timeout=300)
            assert save.stdout is not None
            save.stdout.close()
        assert loaded.returncode == 0, loaded.stderr

    # -- the rest of it -----------------------------------------------------------------------------

    def agent_answers(self, seconds: float = 2) -> bool:
        """Whether the agent has readings for the hub."""
        try:
            with requests.Session() as session:
                session.trust_env = False
                session.verify = str(self.keys.authority)
                session.headers["Authorization"] = f"Bearer {self.keys.token.read_text()}"
                return session.get(f"https://{self.address}:{AGENT_PORT}/readings", timeout=seconds).ok
        except requests.RequestException:
            return False

    def restart_agent(self) -> None:
        """Restart the agent with the units as they now are, and return when it answers."""
        self.exec("systemctl", "daemon-reload")
        self.exec("systemctl", "restart", "idlhub-agent.service")
        wait_for(self.agent_answers, f"the agent of {self.name}", _READY_SECONDS)

    def cut_network(self) -> None:
        """Drop every packet from and to the server without a word, as a broken switch does."""
        self.exec("nft", "-f", "-", given=_CUT)

    def restore_network(self) -> None:
        self.exec("nft", "delete", "table", "inet", "tests_cut")

    def unmount_homes(self) -> None:
        """Take the homes away: an empty folder is left."""
        self.exec("umount", "--lazy", str(self.homes))

    def mount_homes(self) -> None:
        self.exec("mount", "--bind", _HOMES_SOURCE, str(self.homes))

    def settings(self) -> dict[str, object]:
        """Return this server's entry in the hub's settings; without an agent when it has no GPU."""
        keys = self.keys
        engine = {
            "url": self.engine_url,
            "ca_file": str(keys.authority),
            "certificate_file": str(keys.certificate),
            "key_file": str(keys.key),
        }
        entry: dict[str, object] = {"name": self.name, "address": self.address, "engine": engine}
        if self.simulator.gpus():
            url = f"https://{self.address}:{AGENT_PORT}"
            entry["agent"] = {"url": url, "token_file": str(keys.token), "ca_file": str(keys.authority)}
        return entry
