"""Who reaches what on deployed machines: tried from students' containers, machines of the fleet, and one outside it.

What listens there may be the fleet's own program or one of ours: on every machine, at each of its two addresses, all
ports of the table answer, so whatever is silent was stopped on its way.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible.machine import Machine
from ansible.machines import Machines
from cluster_disks import LABEL
from hubs import docker, wait_for

OPEN, SILENT = "open", "silent"
UNITS = ("idl-hub-host-firewall.service", "idl-hub-firewall.service")
_IMAGE = "idl-hub/student:latest"
_NETWORK = "idlhub"
_STUDENTS_PORT = 7001
_PUBLISHED = 7002
_ELSEWHERE = 8000
_PROBE = Path(__file__).resolve().parents[1].joinpath("probe.py").read_text(encoding="utf-8")
_OPEN_SECONDS, _CLOSED_SECONDS = 20.0, 1.5

PUBLIC = (80, 443)
HUB_FOR_SERVERS = {"hub's API": 8081, "GPU pages": 8090, "registry": 5000, "homes": 2049}
HUB_INSIDE = {"proxy": 8000, "proxy's API": 8001, "Prometheus": 9090, "node exporter": 9100}
SERVER_INSIDE = {"engine": 2376, "agent": 9810, "engine's metrics": 9323, "node exporter": 9100}

# Listens until its input ends. A port that somebody else has is served already.
_LISTEN = """
import errno, socket, sys
listening = []
for place in sys.argv[1:]:
    address, port = place.rsplit(":", 1)
    try:
        listening.append(socket.create_server((address, int(port)), backlog=1000))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
print("listens", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Row:
    """From where, to what, and what comes of it under the rules; without them everything answers."""

    source: str
    name: str
    address: str
    port: int
    rules: str
    kind: str = "tcp"


@dataclass(frozen=True)
class Place:
    """From where something is tried: ``run`` runs a program of Python with one argument there."""

    name: str
    run: Callable[[str, str], str]


class Matrix:
    """The table, for a hub and two servers; `furnished` makes it."""

    def __init__(self, machines: Machines, places: Sequence[Place], outside_address: str) -> None:
        self.machines = machines
        self.places = {place.name: place for place in places}
        self.outside_address = outside_address

    def wrong(self, expected: Callable[[Row], str]) -> dict[str, str]:
        """Try everything; return what answered otherwise than expected."""
        rows = self.rows()
        with ThreadPoolExecutor(len(self.places)) as pool:
            found: dict[str, str] = {}
            for answers in pool.map(lambda name: self._try(name, rows, expected), self.places):
                found |= answers
        assert len(found) == len(rows)
        return {_label(row): found[_label(row)] for row in rows if found[_label(row)] != expected(row)}

    def _try(self, source: str, rows: Sequence[Row], expected: Callable[[Row], str]) -> dict[str, str]:
        def patience(row: Row) -> float:
            return _CLOSED_SECONDS if expected(row) == SILENT else _OPEN_SECONDS

        asked = [asdict(row) | {"name": _label(row), "seconds": patience(row)} for row in rows if row.source == source]
        answers: dict[str, str] = json.loads(self.places[source].run(_PROBE, json.dumps(asked)))["reached"]
        return answers

    @contextmanager
    def without_rules(self) -> Iterator[None]:
        """Take both tables away on all machines, and bring them back as an admin does."""
        try:
            for machine in self.machines.machines.values():
                for table in ("idl_hub_host", "idl_hub"):
                    machine.exec("nft", "delete", "table", "inet", table, check=False)
            yield
        finally:
            for machine in self.machines.machines.values():
                units = UNITS if machine.name != "hub" else UNITS[:1]
                machine.exec("systemctl", "reload", *units)

    def rows(self) -> list[Row]:
        """Return the whole table."""
        return [
            *_from_student(self.machines, self.outside_address),
            *_from_outside(self.machines),
            *_from_server(self.machines),
            *_from_hub(self.machines),
        ]


def _label(row: Row) -> str:
    return f"{row.source} -> {row.name}"


def outer(machines: Machines, name: str) -> str:
    """Return a machine's address outside the encrypted network."""
    return machines.machine(name).address


def inner(machines: Machines, name: str) -> str:
    """Return a machine's address inside the encrypted network."""
    return _address(machines.machine(name), "wg-idlhub")


def _address(machine: Machine, interface: str) -> str:
    shown = machine.exec("ip", "-json", "-4", "address", "show", "dev", interface)
    return str(json.loads(shown)[0]["addr_info"][0]["local"])


def _from_student(machines: Machines, outside_address: str) -> Iterator[Row]:
    hub_in, hub_out = inner(machines, "hub"), outer(machines, "hub")
    for name in ("hub's API", "GPU pages"):
        yield Row("student", f"hub inside: {name}", hub_in, HUB_FOR_SERVERS[name], OPEN)
        yield Row("student", f"hub outside: {name}", hub_out, HUB_FOR_SERVERS[name], SILENT)
    for name, address in {"inside": hub_in, "outside": hub_out}.items():
        yield Row("student", f"hub {name}: the way in", address, 443, OPEN)
    closed = HUB_INSIDE | {"registry": 5000, "homes": 2049, "ssh": 22}
    for name, port in closed.items():
        yield Row("student", f"hub inside: {name}", hub_in, port, SILENT)
    yield Row("student", "hub outside: ssh", hub_out, 22, SILENT)
    yield Row("student", "hub inside: ping", hub_in, 0, SILENT, "ping")
    for server, whose in (("gpu01", "own server"), ("gpu02", "another server")):
        for side, address in {"inside": inner(machines, server), "outside": outer(machines, server)}.items():
            for name, port in (SERVER_INSIDE | {"ssh": 22}).items():
                yield Row("student", f"{whose} {side}: {name}", address, port, SILENT)
            yield Row("student", f"{whose} {side}: ping", address, 0, SILENT, "ping")
    yield Row("student", "the gateway: ssh", _address(machines.machine("gpu01"), "idlhub0"), 22, SILENT)
    other = inner(machines, "gpu02")
    yield Row("student", "another server: a student's published port", other, _STUDENTS_PORT, SILENT)
    yield Row("student", "another server: another container's published port", other, _PUBLISHED, SILENT)
    yield Row("student", "a machine beside the fleet", outside_address, _ELSEWHERE, SILENT)


def _from_outside(machines: Machines) -> Iterator[Row]:
    hub = outer(machines, "hub")
    for port in PUBLIC:
        yield Row("outside", f"hub: port {port}", hub, port, OPEN)
    yield Row("outside", "hub: ssh", hub, 22, OPEN)
    yield Row("outside", "hub: ping", hub, 0, OPEN, "ping")
    for name, port in (HUB_FOR_SERVERS | HUB_INSIDE).items():
        yield Row("outside", f"hub: {name}", hub, port, SILENT)
        # Somebody on the machines' own network can send packets for the inner address to the outer one.
        yield Row("outside", f"hub inside: {name}", inner(machines, "hub"), port, SILENT)
    server = outer(machines, "gpu01")
    yield Row("outside", "server: ssh", server, 22, OPEN)
    for name, port in (SERVER_INSIDE | {"a student": _STUDENTS_PORT, "another container": _PUBLISHED}).items():
        yield Row("outside", f"server: {name}", server, port, SILENT)


def _from_server(machines: Machines) -> Iterator[Row]:
    hub = inner(machines, "hub")
    for name, port in HUB_FOR_SERVERS.items():
        yield Row("server", f"hub: {name}", hub, port, OPEN)
    for name, port in HUB_INSIDE.items():
        yield Row("server", f"hub: {name}", hub, port, SILENT)
    for side, address in {"inside": inner(machines, "gpu02"), "outside": outer(machines, "gpu02")}.items():
        for name, port in (SERVER_INSIDE | {"a student": _STUDENTS_PORT, "another container": _PUBLISHED}).items():
            yield Row("server", f"another server {side}: {name}", address, port, SILENT)


def _from_hub(machines: Machines) -> Iterator[Row]:
    for server in ("gpu01", "gpu02"):
        address = inner(machines, server)
        for name, port in (SERVER_INSIDE | {"a student": _STUDENTS_PORT, "another container": _PUBLISHED}).items():
            yield Row("hub", f"{server}: {name}", address, port, OPEN)


def check(machines: Machines) -> None:
    """Fail unless the table holds on these machines, and everything in it answers once the rules are gone."""
    with furnished(machines) as matrix:
        with matrix.without_rules():
            assert matrix.wrong(lambda _: OPEN) == {}
        assert matrix.wrong(lambda row: row.rules) == {}


# -- furnishing -------------------------------------------------------------------------------------------------------


@contextmanager
def furnished(machines: Machines) -> Iterator[Matrix]:
    """Let all ports of the table answer, and make the places from which they are tried."""
    with ExitStack() as stack:
        for machine in machines.machines.values():
            ports = sorted({*PUBLIC, *HUB_FOR_SERVERS.values(), *HUB_INSIDE.values(), *SERVER_INSIDE.values()})
            addresses = (inner(machines, machine.name), machine.address)
            listens = [f"{address}:{port}" for address in addresses for port in ports]
            stack.enter_context(_listening(["docker", "exec", "-i", machine.container], listens))
        students = []
        for name in ("gpu01", "gpu02"):
            machine = machines.machine(name)
            students.append(stack.enter_context(_container(machine, _NETWORK, _STUDENTS_PORT)))
            stack.enter_context(_container(machine, "bridge", _PUBLISHED))
        outside = stack.enter_context(_outside(machines))
        listen = ["docker", "exec", "-i", outside]
        address = docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", outside)
        stack.enter_context(_listening(listen, [f"{address}:{_ELSEWHERE}"]))
        first = machines.machine("gpu01")
        places = [
            Place("student", lambda code, given: first.docker("exec", students[0], "python3", "-c", code, given)),
            Place("outside", lambda code, given: docker("exec", outside, "python3", "-c", code, given)),
            Place("server", lambda code, given: first.exec("python3", "-c", code, given)),
            Place("hub", lambda code, given: machines.machine("hub").exec("python3", "-c", code, given)),
        ]
        yield Matrix(machines, places, address)


@contextmanager
def _listening(command: Sequence[str], places: Sequence[str]) -> Iterator[None]:
    words = [*command, "python3", "-c", _LISTEN, *places]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listens\n"
        yield
        listener.communicate("", timeout=60)


@contextmanager
def _container(machine: Machine, network: str, port: int) -> Iterator[str]:
    """Run a container on a server that listens on a port which the server publishes at all its addresses."""
    command = ["run", "--detach", "--rm", "--network", network, "--publish", f"{port}:{port}", "--cap-drop=ALL"]
    command += ["--entrypoint", "python3", _IMAGE, "-m", "http.server", str(port)]
    container = machine.docker(*command)
    try:
        answers = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        wait_for(
            lambda: "rror" not in machine.docker("exec", container, "python3", "-c", answers, check=False),
            f"a container on {machine.name}",
            60,
        )
        yield container
    finally:
        machine.docker("rm", "--force", container, check=False)


@contextmanager
def _outside(machines: Machines) -> Iterator[str]:
    """Run a container on the machines' network that is none of the fleet, and knows the way to the inner addresses."""
    hub = machines.machine("hub")
    shown = docker("inspect", "--format", "{{.Image}} {{json .NetworkSettings.Networks}}", hub.container)
    image, _, networks = shown.partition(" ")
    (network,) = json.loads(networks)
    label = docker("inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', hub.container)
    command = ["run", "--detach", "--rm", "--label", f"{LABEL}={label}", "--network", network, "--cap-add=NET_ADMIN"]
    container = docker(*command, "--entrypoint", "sleep", image, "600")
    try:
        docker("exec", container, "ip", "route", "add", f"{inner(machines, 'hub')}/32", "via", hub.address)
        yield container
    finally:
        docker("rm", "--force", container)
