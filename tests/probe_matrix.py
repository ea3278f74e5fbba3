"""The table: what a student's container tries to reach, and what must come of it.

``without`` is what comes of it on the same servers when nothing is closed: ``open`` or ``refused`` there says that the
packets do get through, so whatever is silent otherwise was stopped on its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cluster_server import AGENT_PORT
from probe_room import (
    INSIDE6,
    INTERNET,
    INTERNET6,
    METADATA,
    OTHER_RESOLVER,
    PRIVATE,
    RESOLVER,
    Room,
    Seat,
    Target,
    address6,
    gateway,
    gateway6,
)

from idl_hub.servers.daemon import PORT as ENGINE_PORT

OPEN, REFUSED, SILENT, NO_WAY = "open", "refused", "silent", "no way"
ANY_PORT = 8888
CLOSED_BY_THE_BRIDGE = tuple(
    f"a student of the same server: {what}" for what in ("container", "published port", "ping")
)
"""What ``enable_icc=false`` closes alone."""
SERVER_PORTS = {"ssh": 22, "engine": ENGINE_PORT, "agent": AGENT_PORT}
HUB_CLOSED = ("proxy's API", "ssh", "registry", "home server", "database")


@dataclass(frozen=True)
class Row:
    """One line of the table, for one student."""

    target: Target
    rules: str
    without: str


def rows(room: Room, seat: Seat) -> list[Row]:
    """Return the table for IPv4, as seen from one student's container."""
    return [
        *_students(room, seat),
        *_servers(room, seat),
        *_hub(room),
        *_around(room),
    ]


def _students(room: Room, seat: Seat) -> Iterator[Row]:
    neighbour, stranger = room.neighbour(seat), room.stranger(seat)
    near, far = "a student of the same server", "a student of another server"
    yield Row(Target(f"{near}: container", neighbour.address, ANY_PORT), SILENT, OPEN)
    yield Row(Target(f"{near}: published port", seat.server.address, neighbour.published), SILENT, OPEN)
    yield Row(Target(f"{near}: ping", neighbour.address, kind="ping"), SILENT, OPEN)
    yield Row(Target(f"{near}: port at the gateway", gateway(seat), neighbour.published), SILENT, REFUSED)
    yield Row(Target(f"{far}: container", stranger.address, ANY_PORT), SILENT, OPEN)
    yield Row(Target(f"{far}: published port", stranger.server.address, stranger.published), SILENT, OPEN)
    yield Row(Target(f"{far}: ping", stranger.address, kind="ping"), SILENT, OPEN)
    yield Row(Target(f"{far}: its gateway", gateway(stranger), 22), SILENT, OPEN)


def _servers(room: Room, seat: Seat) -> Iterator[Row]:
    other = room.other_server(seat)
    places = {"the gateway": gateway(seat), "own server": seat.server.address, "another server": other.address}
    for place, address in places.items():
        for name, port in SERVER_PORTS.items():
            # The engine and the agent do not listen at the bridge's address.
            there = REFUSED if place == "the gateway" and name != "ssh" else OPEN
            yield Row(Target(f"{place}: {name}", address, port), SILENT, there)
        yield Row(Target(f"{place}: ping", address, kind="ping"), SILENT, OPEN)


def _hub(room: Room) -> Iterator[Row]:
    hub = room.cluster.hub_address
    for name in ("hub's API", "GPU pages", "proxy"):
        yield Row(Target(f"the hub: {name}", hub, room.hub_ports[name]), OPEN, OPEN)
    for name in HUB_CLOSED:
        yield Row(Target(f"the hub: {name}", hub, room.hub_ports[name]), SILENT, OPEN)
    yield Row(Target("the hub: ping", hub, kind="ping"), SILENT, OPEN)


def _around(room: Room) -> Iterator[Row]:
    for address in METADATA:
        yield Row(Target(f"metadata: {address}", address, 80), SILENT, OPEN)
    for address in PRIVATE:
        yield Row(Target(f"inside: {address}", address, 80), SILENT, OPEN)
    yield Row(Target("inside: a machine beside the servers", room.outside_address, 80), SILENT, OPEN)
    yield Row(Target("the resolver: a name", RESOLVER, 53, "dns"), OPEN, OPEN)
    yield Row(Target("the resolver: a name over TCP", RESOLVER, 53), OPEN, OPEN)
    yield Row(Target("the resolver: another port", RESOLVER, 80), SILENT, OPEN)
    yield Row(Target("another inside resolver: a name", OTHER_RESOLVER, 53, "dns"), SILENT, OPEN)
    yield Row(Target("the engine's own resolver", "student.test", 0, "name"), OPEN, OPEN)
    yield Row(Target("the internet: a port", INTERNET, 80), OPEN, OPEN)
    yield Row(Target("the internet: a name server", INTERNET, 53, "dns"), OPEN, OPEN)
    yield Row(Target("the internet: ping", INTERNET, kind="ping"), OPEN, OPEN)


def rows6(room: Room, seat: Seat) -> list[Row]:
    """Return the table for IPv6, for a container that was given it although the students' network has none."""
    hub = room.cluster.hub_address6
    closed = {f"own server: {name}": (seat.server.address6, port) for name, port in _server_ports6()}
    closed |= {f"another server: {name}": (room.other_server(seat).address6, port) for name, port in _server_ports6()}
    closed |= {"the gateway: ssh": (gateway6(seat), 22)}
    closed |= {f"the hub: {name}": (hub, room.hub_ports[name]) for name in HUB_CLOSED}
    closed |= {f"inside: {address}": (address, 80) for address in INSIDE6}
    closed |= {"inside: a machine beside the servers": (room.outside_address6, 80)}
    found = [Row(Target(f"{name} (IPv6)", address, port), SILENT, OPEN) for name, (address, port) in closed.items()]
    neighbour = address6(room.neighbour(seat))
    found.append(Row(Target("a student of the same server: container (IPv6)", neighbour, ANY_PORT), SILENT, REFUSED))
    found.append(Row(Target("a student of the same server: ping (IPv6)", neighbour, kind="ping"), SILENT, OPEN))
    found.append(Row(Target("the hub: proxy (IPv6)", hub, room.hub_ports["proxy"]), OPEN, OPEN))
    found.append(Row(Target("the internet: a port (IPv6)", INTERNET6, 80), OPEN, OPEN))
    return found


def _server_ports6() -> list[tuple[str, int]]:
    """Return what of a server listens on IPv6: engine and agent have one address each, of IPv4."""
    return [("ssh", SERVER_PORTS["ssh"])]
