"""What students' containers reach, tried from inside of each, on real servers with a real hub."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from cluster_server import AGENT_PORT
from hubs import wait_for
from probe_matrix import CLOSED_BY_THE_BRIDGE, NO_WAY, OPEN, REFUSED, SERVER_PORTS, SILENT, Row, rows, rows6
from probe_room import Room, Seat, Target, furnished

UNIT = "idl-hub-firewall.service"
_CLOSED_SECONDS = 1.5
_OPEN_SECONDS = 20
_TALK = """
import socket, sys
talking = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
print("connected", flush=True)
sys.stdin.readline()
talking.settimeout(1.5)
try:
    talking.send(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print(talking.recv(4).decode())
except TimeoutError:
    print("silent")
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with furnished(tmp_path_factory.mktemp("isolation")) as room:
        yield room


def wrong(
    room: Room, table: Callable[[Room, Seat], list[Row]], expected: Callable[[Row], str]
) -> dict[str, dict[str, str]]:
    """Try a table from every student's container; return student -> what answered otherwise than expected."""
    tables = {seat.student.name: table(room, seat) for seat in room.seats}
    expectations = {row.target.name: expected(row) for row in next(iter(tables.values()))}
    patience = {name: _CLOSED_SECONDS if wanted == SILENT else _OPEN_SECONDS for name, wanted in expectations.items()}
    targets = {student: [row.target for row in lines] for student, lines in tables.items()}
    answers = room.probe_everybody(targets, patience)
    assert len(answers) == len(room.seats) == 4
    return {
        student: others
        for student, answer in answers.items()
        if (others := {name: got for name, got in answer["reached"].items() if got != expectations[name]})
    }


def test_from_every_container_just_what_the_table_says_is_reached(room: Room) -> None:
    assert wrong(room, rows, lambda row: row.rules) == {}


def test_the_rules_alone_close_it_without_the_bridges_own_switch(room: Room) -> None:
    with room.without_the_bridges_switch():
        assert wrong(room, rows, lambda row: row.rules) == {}


def test_all_that_is_closed_is_there_and_answers_once_nothing_is_closed(room: Room) -> None:
    """Or the tests above would pass for nothing."""
    assert {row.without for row in rows(room, room.seats[0])} == {OPEN, REFUSED}
    with room.without_rules(), room.without_the_bridges_switch():
        assert wrong(room, rows, lambda row: row.without) == {}


def test_the_bridges_own_switch_alone_closes_next_to_nothing(room: Room) -> None:
    def expected(row: Row) -> str:
        return SILENT if row.target.name in CLOSED_BY_THE_BRIDGE else row.without

    with room.without_rules():
        found = wrong(room, rows, expected)
    # Whether the engine forwards what it does not know depends on who switched forwarding on before it.
    assert {name for others in found.values() for name in others} <= {"a student of another server: ping"}


def test_a_connection_from_before_the_rules_ends_with_them(room: Room) -> None:
    seat = room.seats[0]
    stranger = room.stranger(seat)
    command = ["docker", "exec", "-i", seat.server.container, "docker", "exec", "-i", seat.container]
    command += ["python3", "-c", _TALK, stranger.server.address, str(stranger.published)]

    def talk(before_it_speaks: Callable[[], None]) -> str:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as talking:
            assert talking.stdout is not None
            assert talking.stdout.readline() == "connected\n"
            before_it_speaks()
            said, _ = talking.communicate("\n", timeout=60)
        return said.strip()

    with room.without_rules():
        assert talk(lambda: None) == "HTTP"
        assert talk(room.load) == "silent"


def test_hub_and_proxy_reach_students_ports_and_nobody_else_does(room: Room) -> None:
    assert [seat.student.ask_server().status_code for seat in room.seats] == [200] * 4
    published = [Target(f"port {seat.student.name}", seat.server.address, seat.published) for seat in room.seats]
    containers = [Target(f"container {seat.student.name}", seat.address, 8888) for seat in room.seats]
    everything = {target.name for target in (*published, *containers)}

    def reached(seconds: float) -> tuple[set[str], set[str]]:
        from_outside = room.probe_outside([*published, *containers], seconds)
        here = [seat.server for seat in room.seats] * 2
        both = list(zip(here, [*published, *containers], strict=True))
        from_servers: dict[str, str] = {}
        for found in room.everywhere(
            lambda server: room.probe_server(server, [target for there, target in both if there is not server], seconds)
        ):
            from_servers |= found
        assert set(from_outside) == set(from_servers) == everything
        return _answering(from_outside), _answering(from_servers)

    assert reached(_CLOSED_SECONDS) == (set(), set())
    with room.without_rules():
        assert reached(_OPEN_SECONDS) == (everything, everything)


def _answering(found: dict[str, str]) -> set[str]:
    return {name for name, got in found.items() if got != SILENT}


def test_a_machine_that_is_hub_and_server_at_once_opens_the_hubs_ports_alone(room: Room) -> None:
    seat = room.seats[0]
    address = seat.server.address
    # The agent stands for the hub's API: it listens on the server's own address.
    own = ["--hub", address, "--open", f"{address}:{AGENT_PORT}"]
    targets = [Target(name, address, port) for name, port in SERVER_PORTS.items()]
    targets.append(Target("another student", address, room.neighbour(seat).published))
    patience = {target.name: _OPEN_SECONDS if target.name == "agent" else _CLOSED_SECONDS for target in targets}
    room.firewall(seat.server, "load", *room.options(), *own)
    try:
        reached = seat.probe(targets, patience)["reached"]
        from_the_hub = room.probe_server(seat.server, [Target("student", address, seat.published)], _OPEN_SECONDS)
    finally:
        room.load()
    assert reached == {"ssh": SILENT, "engine": SILENT, "agent": OPEN, "another student": SILENT}
    assert from_the_hub == {"student": OPEN}


def test_a_container_has_no_powers_with_which_to_get_around_the_rules(room: Room) -> None:
    for seat in room.seats:
        powers = seat.probe([], {})["powers"]
        assert set(powers.pop("capabilities").values()) == {0}
        assert powers.pop("IPv6 addresses") == []
        assert powers.pop("new privileges") is False
        assert powers.pop("another's address") in {"Invalid argument", "Network is unreachable"}
        assert len(powers) == 4
        assert set(powers.values()) == {"Operation not permitted"}


def test_the_table_holds_after_one_engine_restarted_and_another_was_killed(room: Room) -> None:
    restarted = room.cluster.servers[0]
    room.everywhere(lambda server: server.restart_engine() if server is restarted else server.kill_engine())
    assert room.everywhere(lambda server: room.firewall(server, "check")) == ["These rules are in force."] * 2
    assert wrong(room, rows, lambda row: row.rules) == {}
    assert [seat.student.ask_server().status_code for seat in room.seats] == [200] * 4


def test_containers_have_no_ipv6_and_when_somebody_turns_it_on_the_rules_hold(room: Room) -> None:
    assert wrong(room, rows6, lambda _: NO_WAY) == {}
    room.turn_on_ipv6()
    assert wrong(room, rows6, lambda row: row.rules) == {}
    with room.without_rules():
        assert wrong(room, rows6, lambda row: row.without) == {}
    assert wrong(room, rows, lambda row: row.rules) == {}


# -- what is kept from others ---------------------------------------------------------------------------------------


def secrets_of(room: Room, seat: Seat) -> dict[str, str]:
    """Return what only this student's own container may know: whatever in its environment is a token."""
    environment = room.inspect(seat)["Config"]["Env"]
    named = dict(line.split("=", 1) for line in environment)
    found = {f"{seat.student.name}: {name}": value for name, value in named.items() if "TOKEN" in name}
    assert f"{seat.student.name}: JUPYTERHUB_API_TOKEN" in found
    return found


def write_a_note(seat: Seat) -> str:
    """Let a student write a file that everybody may read: all have the same number of user."""
    note = f"{seat.student.name} wrote this at {seat.address}"
    seat.server.docker("exec", seat.container, "sh", "-c", 'umask 0; echo "$0" > ~/notes.txt', note)
    return note


def test_no_container_holds_a_secret_of_another_or_of_the_hub(room: Room) -> None:
    students = {seat.student.name: secrets_of(room, seat) for seat in room.seats}
    for seat in room.seats:
        students[seat.student.name][f"{seat.student.name}: a file at home"] = write_a_note(seat)
    of_the_hub = room.secrets_of_the_hub()
    everything = {name: value for own in students.values() for name, value in own.items()} | of_the_hub

    for seat in room.seats:
        found, looked = room.search(seat.server, everything, ["/"], inside=seat.container)
        # Its own are found: so the others would be.
        assert set(found) == set(students[seat.student.name])
        assert looked > 1000


def test_on_a_server_only_root_finds_secrets(room: Room) -> None:
    wanted = room.secrets_of_the_hub()
    for seat in room.seats:
        wanted |= secrets_of(room, seat) | {f"{seat.student.name}: a file at home": write_a_note(seat)}
    homes = {name for name in wanted if name.endswith("a file at home")}
    for server in room.cluster.servers:
        places = ["/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/var", str(room.cluster.homes)]
        by_anybody, looked = room.search(server, wanted, places, as_user="65534")
        assert by_anybody == {}
        assert looked > 100
        by_root, _ = room.search(server, wanted, ["/etc", "/var/lib/docker/containers", str(room.cluster.homes)])
        own = {name for seat in room.seats if seat.server is server for name in secrets_of(room, seat)}
        assert set(by_root) == own | homes | {f"agent of {server.name}"}


# -- the last ones end students' containers -------------------------------------------------------------------


def test_rules_come_back_with_the_server_before_its_engine_and_no_engine_comes_without(room: Room) -> None:
    server = room.cluster.servers[1]
    rules = room.firewall(server, "show")
    path = "/etc/idl_hub/firewall.nft"
    server.write({path[1:]: f"{rules}\n".encode()})
    unit = room.firewall(server, "unit", path)
    server.write({f"etc/systemd/system/{UNIT}": f"{unit}\n".encode()}, mode=0o644)
    server.exec("systemctl", "enable", UNIT)

    server.kill()
    server.start()
    assert room.firewall(server, "check") == "These rules are in force."
    shown = server.exec("systemctl", "show", "--property=ExecMainStartTimestampMonotonic", "--value", UNIT, "docker")
    loaded, engine = (int(text) for text in shown.split())
    assert 0 < loaded < engine

    server.exec("nft", "delete", "table", "inet", "idl_hub")
    before = server.exec("systemctl", "show", "--property=MainPID", "docker")
    server.exec("systemctl", "reload", UNIT)
    assert room.firewall(server, "check") == "These rules are in force."
    assert server.exec("systemctl", "show", "--property=MainPID", "docker") == before

    # Debian's own service deletes every table when it starts, Docker's as well.
    server.exec("systemctl", "restart", "nftables.service")
    assert room.firewall(server, "check") == "These rules are in force."
    wait_for(server.engine_answers, "the engine", 60)
    assert "DOCKER-USER" in server.exec("iptables", "-S")

    server.write({path[1:]: b"table inet idl_hub { what }\n"})
    server.exec("systemctl", "restart", UNIT, check=False)
    server.exec("systemctl", "start", "docker.service", check=False)
    assert server.exec("systemctl", "is-active", "docker.service", check=False) != "active"
    server.write({path[1:]: f"{rules}\n".encode()})
    server.exec("systemctl", "start", "docker.service")
    wait_for(server.engine_answers, "the engine", 60)
    assert room.firewall(server, "check") == "These rules are in force."


def test_the_command_says_what_is_wrong_on_a_server(room: Room) -> None:
    server = room.cluster.servers[0]
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    command = ("/opt/idl_hub/venv/bin/python", "-B", "-m", "idl_hub.cli", "firewall", "load", *room.options())
    said = server.exec(*as_nobody, "env", "PYTHONPATH=/opt/idl_hub/code", *command, check=False)
    assert "Only root may look at and change the rules of this server" in said
    with room.without_rules():
        said = room.firewall(server, "check", check=False)
        assert "No rules are in force: students reach whatever this server reaches" in said
    assert "others than those of these values" in room.firewall(
        server, "check", *room.options(), "--open", "10.0.0.1:80", check=False
    )
