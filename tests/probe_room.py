"""Servers, a real hub, four students, and what lies around them: everything a student might try to reach.

Around the servers stands one more machine: a container that has the addresses of clouds' metadata, of private
networks, of name servers and of the internet, and listens on them. The servers have routes there.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cluster import Cluster, ClusterHub, Server
from cluster_disks import LABEL
from cluster_image import server_image
from cluster_server import STUDENT_BRIDGE, STUDENT_NETWORK
from hubs import docker
from students import Student

Found = TypeVar("Found")
STUDENTS = ("student1", "student2", "student3", "student4")
INTERNET, INTERNET6 = "198.51.100.1", "2001:db8:5::1"
"""Kept free for documentation, so nobody's; and no rule knows them, as it knows no address of the internet."""
RESOLVER, OTHER_RESOLVER = "10.99.0.53", "10.99.0.54"
CLUSTERS_PUBLIC_NETWORK = "203.0.113.0/24"
METADATA = ("169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "100.100.100.200")
PRIVATE = ("10.99.0.1", "172.31.99.1", "192.168.99.1", "100.64.99.1", "198.18.99.1", "203.0.113.9")
INSIDE6 = ("fd00:ec2::254", "fd99::1")
_AROUND = (INTERNET, RESOLVER, OTHER_RESOLVER, *METADATA, *PRIVATE)
_AROUND6 = (INTERNET6, *INSIDE6)
_WEB_PORT = 80
# So that a container's address says on which server it is; Docker gives every server the same ones.
_NETWORKS = {"gpu01": "172.28.0.0/16", "gpu02": "172.29.0.0/16"}
_WAY_OUT6 = """
table ip6 tests_way_out {
    chain out { type nat hook postrouting priority srcnat; iifname "idlhub0" oifname "eth0" masquerade; }
}
"""
PROBE = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
SEARCH = Path(__file__).with_name("probe_secrets.py").read_text(encoding="utf-8")

# A connection is made by the kernel as soon as somebody listens. Every name has the address of the internet.
_LISTEN = """
import socket, sys
listening = [socket.create_server(("", 80), backlog=1000),
             socket.create_server(("::", 80), family=socket.AF_INET6, backlog=1000),
             socket.create_server(("", 53), backlog=1000)]
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.setsockopt(socket.SOL_IP, 8, 1)  # IP_PKTINFO: to answer from the address that was asked
names.bind(("", 53))
print("listens", flush=True)
while True:
    question, ancillary, _, sender = names.recvmsg(512, 64)
    asked = ancillary[0][2][4:8]
    end = question.index(bytes(1), 12) + 5
    found = question[end - 3] == 1  # an address of IPv4; of others there is none
    answer = question[:2] + bytes([0x81, 0x80, 0, 1, 0, found, 0, 0, 0, 0]) + question[12:end]
    if found:
        answer += bytes([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]) + socket.inet_aton(sys.argv[1])
    names.sendmsg([answer], [(socket.SOL_IP, 8, bytes(4) + asked + bytes(4))], 0, sender)
"""


@dataclass(frozen=True)
class Target:
    """What somebody tries to reach."""

    name: str
    address: str
    port: int = 0
    kind: str = "tcp"


@dataclass(frozen=True)
class Seat:
    """A student's running container."""

    student: Student
    server: Server
    container: str
    address: str
    published: int

    def probe(self, targets: Sequence[Target], patience: Mapping[str, float]) -> dict[str, Any]:
        """Try all targets at once from inside; return how each answered, and what the container may do."""
        asked = [asdict(target) | {"seconds": patience[target.name]} for target in targets]
        words = ("exec", self.container, "python3", "-c", PROBE, json.dumps(asked))
        answer: dict[str, Any] = json.loads(self.server.docker(*words))
        return answer


@dataclass
class Room:
    """All of it."""

    cluster: Cluster
    hub: ClusterHub
    outside: str
    outside_address: str
    outside_address6: str
    hub_ports: dict[str, int]
    seats: list[Seat] = field(default_factory=list)

    # -- the rules ----------------------------------------------------------------------------------

    def options(self) -> list[str]:
        """Return what the command is told, on every server alike."""
        hub, hub6 = self.cluster.hub_address, self.cluster.hub_address6
        options = ["--bridge", STUDENT_BRIDGE, "--hub", hub, "--hub", hub6, "--resolver", RESOLVER]
        for service in ("hub's API", "GPU pages", "proxy"):
            options += ["--open", f"{hub}:{self.hub_ports[service]}"]
        options += ["--open", f"[{hub6}]:{self.hub_ports['proxy']}"]
        return [*options, "--close", CLUSTERS_PUBLIC_NETWORK]

    def firewall(self, server: Server, verb: str, *words: str, check: bool = True) -> str:
        """Run the real command on a server."""
        command = ["/opt/idl_hub/venv/bin/python", "-B", "-m", "idl_hub.cli", "firewall", verb]
        return server.exec("env", "PYTHONPATH=/opt/idl_hub/code", *command, *(words or self.options()), check=check)

    def load(self) -> None:
        self.everywhere(lambda server: self.firewall(server, "load"))

    def everywhere(self, act: Callable[[Server], Found]) -> list[Found]:
        """Do something on all servers at once."""
        with ThreadPoolExecutor(len(self.cluster.servers)) as pool:
            return list(pool.map(act, self.cluster.servers))

    @contextmanager
    def without_rules(self) -> Iterator[None]:
        """Take the rules of all servers away for a while."""
        self.everywhere(lambda server: server.exec("nft", "delete", "table", "inet", "idl_hub"))
        try:
            yield
        finally:
            self.load()

    @contextmanager
    def without_the_bridges_switch(self) -> Iterator[None]:
        """Undo for a while what the engine closes: one student to another, and what it does not know."""
        between = f"FORWARD -i {STUDENT_BRIDGE} -o {STUDENT_BRIDGE} -j DROP"
        undo = f"iptables -S FORWARD | head -n 1; iptables -D {between}; iptables -P FORWARD ACCEPT"
        policies = self.everywhere(lambda server: server.exec("sh", "-ec", undo))
        try:
            yield
        finally:
            for server, policy in zip(self.cluster.servers, policies, strict=True):
                server.exec("sh", "-ec", f"iptables -A {between}; iptables {policy}")

    # -- who is where --------------------------------------------------------------------------------

    def seat(self, student: Student) -> Seat:
        """Return where a student's container is."""
        [lease] = [lease for lease in self.hub.leases(live=True) if lease.user == student.name]
        assert lease.container_id
        name = self.hub.rows("select server from lease where id = ?", lease.id)[0][0]
        server = self.cluster.server(name)
        shown = _inspected(server, lease.container_id)["NetworkSettings"]
        [published] = next(iter(shown["Ports"].values()))
        assert published["HostIp"] == server.address
        address = shown["Networks"][STUDENT_NETWORK]["IPAddress"]
        return Seat(student, server, lease.container_id, address, int(published["HostPort"]))

    def inspect(self, seat: Seat) -> dict[str, Any]:
        """Return what root on a server sees of a student's container."""
        return _inspected(seat.server, seat.container)

    def neighbour(self, seat: Seat) -> Seat:
        return next(other for other in self.seats if other.server is seat.server and other is not seat)

    def other_server(self, seat: Seat) -> Server:
        return next(server for server in self.cluster.servers if server is not seat.server)

    def stranger(self, seat: Seat) -> Seat:
        """Return a student on the other server."""
        return next(other for other in self.seats if other.server is not seat.server)

    def probe_everybody(
        self, targets: Mapping[str, Sequence[Target]], patience: Mapping[str, float]
    ) -> dict[str, dict[str, Any]]:
        """Probe from all students' containers at once; return student -> what came of it."""
        with ThreadPoolExecutor(len(self.seats)) as pool:
            names = [seat.student.name for seat in self.seats]
            found = pool.map(lambda seat: seat.probe(targets[seat.student.name], patience), self.seats)
            return dict(zip(names, found, strict=True))

    def turn_on_ipv6(self) -> None:
        """Give servers and containers what Docker does not: IPv6 on the students' network, with a way out."""
        for server in self.cluster.servers:
            server.exec("nft", "-f", "-", given=_WAY_OUT6)
        with ThreadPoolExecutor(len(self.seats)) as pool:
            list(pool.map(_turn_on_ipv6, self.seats))

    def probe_outside(self, targets: Sequence[Target], seconds: float) -> dict[str, str]:
        """Probe from a machine beside the servers that is none of them."""
        return _reached(docker("exec", self.outside, "python3", "-c", PROBE, _asked(targets, seconds)))

    def secrets_of_the_hub(self) -> dict[str, str]:
        """Return what no student may know: name -> secret."""
        state = self.hub.folder / "state"
        proxy, tests = self.hub.secrets
        found = {"proxy": proxy, "tests": tests, "password": self.hub.password}
        found |= {file.name: file.read_text().strip() for file in state.glob("*-token")}
        found["cookie secret"] = (state / "cookie_secret").read_text().strip()
        found["key to the engines"] = (self.cluster.pki / "hub-key.pem").read_text().splitlines()[1]
        found |= {f"agent of {server.name}": server.keys.token.read_text().strip() for server in self.cluster.servers}
        return found

    def search(
        self, server: Server, secrets: Mapping[str, str], places: Sequence[str], *, inside: str = "", as_user: str = ""
    ) -> tuple[dict[str, list[str]], int]:
        """Look for secrets on a server, or in one of its containers; return where which is, and in how many files."""
        command = ["docker", "exec", "-i", inside] if inside else []
        if as_user:
            command += ["setpriv", f"--reuid={as_user}", f"--regid={as_user}", "--clear-groups"]
        answer = json.loads(server.exec(*command, "python3", "-c", SEARCH, *places, given=json.dumps(secrets)))
        return answer["found"], answer["looked"]

    def probe_server(self, server: Server, targets: Sequence[Target], seconds: float) -> dict[str, str]:
        """Probe from a server itself: at another one, that is where packets of its students seem to come from."""
        return _reached(server.exec("python3", "-c", PROBE, _asked(targets, seconds)))


def _inspected(server: Server, container: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(server.docker("inspect", container))[0]
    return shown


def _asked(targets: Sequence[Target], seconds: float) -> str:
    return json.dumps([asdict(target) | {"seconds": seconds} for target in targets])


def _reached(answer: str) -> dict[str, str]:
    return dict(json.loads(answer)["reached"])


def _turn_on_ipv6(seat: Seat) -> None:
    script = f"""
        sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.{STUDENT_BRIDGE}.disable_ipv6=0
        ip addr replace {gateway6(seat)}/64 dev {STUDENT_BRIDGE} nodad
        inside="nsenter --net --target $(docker inspect -f '{{{{.State.Pid}}}}' {seat.container})"
        $inside sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0
        $inside ip addr add {address6(seat)}/64 dev eth0 nodad
        $inside ip route add default via {gateway6(seat)}
    """
    seat.server.exec("sh", "-ec", script)


@contextmanager
def furnished(folder: Path, debian: str = "trixie") -> Iterator[Room]:
    """Start two servers with the rules in force, a hub, and two students' servers on each."""
    with ExitStack() as held:
        cluster = held.enter_context(
            Cluster(folder / "cluster", count=2, gpus=2, debian=debian, engine={"name_servers": [RESOLVER]})
        )
        for server in cluster.servers:
            _own_addresses(server)
        outside, address, address6 = _start_outside(cluster, debian)
        hub = cluster.hub(folder / "hub", gpus=2, students=len(STUDENTS))
        ports = {"hub's API": hub.settings["hub"]["internal_port"], "GPU pages": hub.settings["hub"]["web_port"]}
        for name in ("proxy", "proxy's API", "ssh", "registry", "home server", "database"):
            listening = held.enter_context(listen(cluster.hub_address))
            held.enter_context(listen(cluster.hub_address6, listening.getsockname()[1]))
            ports[name] = listening.getsockname()[1]
        room = Room(cluster, hub, outside, address, address6, ports)
        room.load()
        held.enter_context(hub)
        with ThreadPoolExecutor(len(STUDENTS)) as pool:
            students = list(pool.map(lambda name: Student(hub, name).started(), STUDENTS))
        room.seats = [room.seat(student) for student in students]
        for seat in room.seats:
            room.neighbour(seat)  # two students on each server, or the probes would not be of every pair
        yield room


def gateway(seat: Seat) -> str:
    """Return the address of a container's server on the students' network."""
    return seat.address.rsplit(".", 1)[0] + ".1"


def address6(seat: Seat) -> str:
    """Return the address that a container has once it is given IPv6."""
    _, network, _, host = seat.address.split(".")
    return f"fd{network}::{host}"


def gateway6(seat: Seat) -> str:
    return f"fd{seat.address.split('.')[1]}::1"


def listen(address: str, port: int = 0) -> socket.socket:
    """Return a socket that listens; its kernel makes connections, although nobody takes them."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=4096)


def _own_addresses(server: Server) -> None:
    """Make the students' network again, at addresses that no other server's has, and let the others know the way."""
    server.docker("network", "rm", STUDENT_NETWORK)
    options = {"bridge.name": STUDENT_BRIDGE, "bridge.enable_icc": "false"}
    words = [word for key, value in options.items() for word in ("-o", f"com.docker.network.{key}={value}")]
    server.docker("network", "create", "--subnet", _NETWORKS[server.name], *words, STUDENT_NETWORK)


def _start_outside(cluster: Cluster, debian: str) -> tuple[str, str, str]:
    """Start the machine around, and tell the servers the way to its addresses; return its id and own addresses."""
    own_network = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}"
    network = docker("inspect", "-f", own_network, cluster.servers[0].container)
    container = docker(
        *("run", "--detach", "--network", network, "--network-alias", "outside", "--label", f"{LABEL}={network}"),
        *("--cap-add", "NET_ADMIN", "--entrypoint", "python3", server_image(debian), "-c", _LISTEN, INTERNET),
    )
    shown = json.loads(docker("inspect", container))[0]["NetworkSettings"]["Networks"][network]
    address, address6 = shown["IPAddress"], shown["GlobalIPv6Address"]
    routes = [f"route add {there} via {address}" for there in _AROUND]
    routes += [f"route add {there} via {address6}" for there in _AROUND6]
    for server in cluster.servers:
        others = [
            f"route add {_NETWORKS[other.name]} via {other.address}" for other in cluster.servers if other is not server
        ]
        server.exec("ip", "-batch", "-", given="\n".join([*routes, *others]))
    here = [f"addr add {there}/32 dev lo" for there in _AROUND]
    here += [f"addr add {there}/128 dev lo" for there in _AROUND6]
    here += [f"route add {_NETWORKS[server.name]} via {server.address}" for server in cluster.servers]
    subprocess.run(
        ["docker", "exec", "--interactive", container, "ip", "-batch", "-"],
        input="\n".join(here),
        text=True,
        check=True,
        timeout=60,
    )
    return container, address, address6
