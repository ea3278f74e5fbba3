"""The agent as a process: who gets what, what it survives, and that it changes nothing."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from agents import RunningAgent

from idl_hub.cli import COMMAND_MODULES, parser
from idl_hub.gpus import HealthState, ProcessOrigin
from idl_hub.gpus.agent import CONNECTIONS_PER_ADDRESS
from idl_hub.gpus.simulator import NO_FAULT, Fault, SimulatedProcess, Simulator

pytest_plugins = ["simulated_gpus"]

PAGES = ("/readings", "/metrics", "/health")
GIB = 2**30


@pytest.fixture
def agent(simulator: Simulator, simulator_library: Path, tmp_path: Path) -> Iterator[RunningAgent]:
    with RunningAgent(simulator, simulator_library, tmp_path) as running:
        yield running


def test_who_knows_the_token_gets_all_gpus_and_how_the_server_is_doing(
    agent: RunningAgent, simulator: Simulator
) -> None:
    mine = SimulatedProcess(os.getpid(), 2 * GIB)
    gone = SimulatedProcess(2**22 + 5, GIB)
    simulator.set(3, utilization_ratio=0.8, temperature_celsius=71, power_watts=201, processes=[mine, gone])
    reading = agent.reading_where(lambda reading: bool(reading.gpus[3].processes))
    assert (reading.server, reading.simulated, reading.driver_version) == ("gpu01", True, "580.95.05")
    assert [gpu.uuid for gpu in reading.gpus] == [gpu.uuid for gpu in simulator.gpus()]
    busy = reading.gpus[3]
    assert (busy.utilization_ratio, busy.temperature_celsius, busy.power_watts) == (0.8, 71, 201)
    assert (busy.memory_used_bytes, busy.power_limit_watts, busy.fan_speed_ratio) == (3 * GIB, 250, 0.23)
    here, elsewhere = busy.processes or ()
    assert (here.pid, here.memory_used_bytes, here.uid) == (os.getpid(), 2 * GIB, os.getuid())
    assert here.origin is not ProcessOrigin.UNKNOWN
    assert (elsewhere.origin, elsewhere.container_id, elsewhere.uid) == (ProcessOrigin.UNKNOWN, None, None)
    assert 0 < (reading.duration_seconds or 0) < 5
    figures = reading.figures
    assert figures is not None
    assert figures.cpu_count == os.cpu_count()
    assert 0 < figures.memory_available_bytes < figures.memory_total_bytes
    assert figures.booted_at < time.time()
    assert [disk.path for disk in figures.disks] == ["/"]
    assert abs(reading.taken_at - time.time()) < 5


def test_readings_go_on_by_themselves_once_a_second(agent: RunningAgent) -> None:
    first = agent.reading_where(lambda reading: reading.health.ok)
    later = agent.reading_where(lambda reading: reading.taken_at > first.taken_at + 2.5)
    assert later.taken_at - first.taken_at < 10


@pytest.mark.parametrize("page", ["/readings", "/metrics", "/", "/nothing"])
@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer wrong", "Bearer {token}x", "Basic {token}", "{token}"]
)
def test_without_the_token_nobody_learns_anything(agent: RunningAgent, page: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.format(token=agent.token)}
    answer = requests.get(agent.url + page, headers=headers, verify=str(agent.certificate), timeout=10)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.text == "401 Unauthorized\n"
    assert "tornado" not in str(answer.headers).lower()


def test_plain_http_gets_no_answer(agent: RunningAgent) -> None:
    with socket.create_connection(("127.0.0.1", agent.port), timeout=10) as plain:
        plain.sendall(f"GET /readings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {agent.token}\r\n\r\n".encode())
        received = b""
        try:
            while chunk := plain.recv(4096):
                received += chunk
        except ConnectionResetError:
            pass
    assert b"HTTP/1.1" not in received
    assert b"GPU-" not in received


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"])
def test_nothing_can_be_sent_to_it(agent: RunningAgent, page: str, method: str) -> None:
    assert agent.get(page, method=method).status_code == 405


def test_health_is_one_word_for_everybody(agent: RunningAgent, simulator: Simulator) -> None:
    agent.reading_where(lambda reading: reading.health.ok)
    well = agent.get("/health", token=None)
    assert (well.status_code, well.text) == (200, "ok\n")
    simulator.set_driver(Fault.no_driver())
    reading = agent.reading_where(lambda reading: not reading.health.ok)
    assert reading.health.state is HealthState.DRIVER_NOT_LOADED
    assert len(reading.gpus) == 8
    ill = agent.get("/health", token=None)
    assert (ill.status_code, ill.text) == (503, "not ok\n")
    simulator.set_driver(NO_FAULT)
    agent.reading_where(lambda reading: reading.health.ok)
    assert agent.get("/health", token=None).text == "ok\n"


def test_a_hung_gpu_is_reported_as_such_while_others_flow_and_others_illnesses_are_named(
    agent: RunningAgent, simulator: Simulator
) -> None:
    agent.reading_where(lambda reading: all(gpu.health.ok for gpu in reading.gpus))
    simulator.set(2, fault=Fault.hang(1000))
    simulator.set(4, fault=Fault.lost())
    simulator.set(5, fault=Fault.error(999, "nvmlDeviceGetTemperature"))
    simulator.set(6, utilization_ratio=0.5)
    reading = agent.reading_where(lambda reading: reading.gpus[2].health.state is HealthState.HUNG)
    assert [gpu.health.state.value for gpu in reading.gpus] == ["ok", "ok", "hung", "ok", "lost", "error", "ok", "ok"]
    assert reading.gpus[6].utilization_ratio == 0.5
    assert [gpu.uuid for gpu in reading.gpus] == [gpu.uuid for gpu in simulator.gpus()]
    simulator.set(7, utilization_ratio=0.9)
    agent.reading_where(lambda reading: reading.gpus[7].utilization_ratio == 0.9)
    metrics = agent.get("/metrics").text
    assert 'idlhub_nvml_errors_total{code="999",function="nvmlDeviceGetTemperature"}' in metrics
    assert 'code="15"' in metrics
    simulator.reset()
    agent.reading_where(lambda reading: all(gpu.health.ok for gpu in reading.gpus))


def test_clients_that_dawdle_take_no_place_from_others(agent: RunningAgent) -> None:
    context = ssl.create_default_context(cafile=str(agent.certificate))
    mute = [socket.create_connection(("127.0.0.1", agent.port), timeout=10) for _ in range(CONNECTIONS_PER_ADDRESS - 4)]
    slow = context.wrap_socket(
        socket.create_connection(("127.0.0.1", agent.port), timeout=10), server_hostname="127.0.0.1"
    )
    slow.sendall(b"GET /readings HTTP/1.1\r\nX-Slow: ")
    try:
        start = time.monotonic()
        for _ in range(5):
            agent.reading_where(lambda reading: reading.health.ok)
        assert time.monotonic() - start < 5
    finally:
        for held in (*mute, slow):
            held.close()


def test_one_machine_cannot_keep_the_others_out(agent: RunningAgent) -> None:
    agent.reading_where(lambda reading: reading.health.ok)
    many = [
        socket.create_connection(("127.0.0.1", agent.port), timeout=10, source_address=("127.0.0.2", 0))
        for _ in range(CONNECTIONS_PER_ADDRESS + 20)
    ]
    try:
        refused = [held for held in many[CONNECTIONS_PER_ADDRESS:] if held.recv(1) == b""]
        assert len(refused) == 20
        assert agent.get("/health").status_code == 200, "127.0.0.1 is another address"
    finally:
        for held in many:
            held.close()


@pytest.mark.parametrize("more", [{"headers": {"X-Long": "x" * 20_000}}, {"data": b"x" * 5000}])
def test_requests_that_are_too_large_are_refused(agent: RunningAgent, more: dict[str, object]) -> None:
    agent.reading_where(lambda reading: reading.health.ok)  # before the first one it is not healthy
    try:
        answer = requests.get(agent.url + "/health", verify=str(agent.certificate), timeout=10, **more)
    except requests.ConnectionError:
        pass  # closed before all of it was sent
    else:
        assert answer.status_code in {400, 413, 431}
    assert agent.get("/health").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_even_while_a_gpu_hangs(
    agent: RunningAgent, simulator: Simulator, number: signal.Signals
) -> None:
    agent.reading_where(lambda reading: reading.health.ok)
    simulator.set(1, fault=Fault.hang(1000))
    before = agent.reading()
    agent.reading_where(lambda reading: reading.taken_at > before.taken_at + 2)
    start = time.monotonic()
    assert agent.stop(number) == 0
    assert time.monotonic() - start < 6
    assert not [line for line in agent.output if "Traceback" in line]


def test_it_runs_without_the_libraries_of_the_hub() -> None:
    look = "import sys; from idl_hub.cli import parser; parser('agent'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    modules = set(done.stdout.split())
    assert "tornado.web" in modules
    heavy = {"jupyterhub", "sqlalchemy", "pydantic", "traitlets", "yaml", "docker", "dockerspawner", "alembic"}
    assert not modules & heavy


@pytest.mark.parametrize("command", COMMAND_MODULES)
def test_a_command_called_alone_is_the_same_as_among_all(command: str) -> None:
    def verbs(of: str | None) -> set[str]:
        (subparsers,) = [action for action in parser(of)._actions if action.dest == "command"]
        return set(subparsers.choices or ())

    assert command in verbs(command)
    assert verbs(None) == set(COMMAND_MODULES)
