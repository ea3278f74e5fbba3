"""The agent and real containers: it tells whose process is whose, and runs in one itself, as nobody special."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from agents import RunningAgent, write_certificate, write_private
from hubs import docker, wait_for

from idl_hub.gpus import ProcessOrigin, ServerReading, wire
from idl_hub.gpus.simulator import SimulatedProcess, Simulator

pytest_plugins = ["simulated_gpus"]
pytestmark = pytest.mark.timeout(900)  # the first run builds the image

ROOT = Path(__file__).resolve().parents[2]
BASE = "idl-hub/base:bookworm"
IMAGE = "idl-hub/agent:latest"
AGENT_UID = 990
GIB = 2**30
TOKEN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def image() -> str:
    """The image, built if it has to be."""
    done = subprocess.run([ROOT / "script" / "agent-image"], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    return IMAGE


@pytest.fixture
def student(image: str) -> Iterator[tuple[str, int]]:
    """A container of somebody, uid 1234, and its process as the host sees it."""
    container = docker("run", "--detach", "--rm", "--user", "1234", "--network", "none", BASE, "sleep", "600")
    try:
        yield container, int(docker("inspect", "--format", "{{.State.Pid}}", container))
    finally:
        docker("rm", "--force", container)


def load_gpu_5(simulator: Simulator, student: tuple[str, int]) -> None:
    """Put the container's process, one of the host's, and one that ended on GPU 5."""
    pids = (student[1], os.getpid(), 2**22 + 7)
    simulator.set(5, processes=[SimulatedProcess(pid, GIB) for pid in pids])


def assert_told_apart(reading: ServerReading, student: tuple[str, int]) -> None:
    processes = {process.pid: process for process in reading.gpus[5].processes or ()}
    theirs, ours, ended = (processes[pid] for pid in (student[1], os.getpid(), 2**22 + 7))
    assert (theirs.origin, theirs.container_id, theirs.uid) == (ProcessOrigin.CONTAINER, student[0], 1234)
    assert (ours.container_id, ours.uid) != (student[0], 1234)
    assert ours.uid == os.getuid()
    assert ended.origin is ProcessOrigin.UNKNOWN


def test_a_process_in_a_real_container_is_known_by_the_containers_id(
    student: tuple[str, int], simulator: Simulator, simulator_library: Path, tmp_path: Path
) -> None:
    load_gpu_5(simulator, student)
    with RunningAgent(simulator, simulator_library, tmp_path) as agent:
        assert_told_apart(agent.reading_where(lambda reading: bool(reading.gpus[5].processes)), student)
        docker("rm", "--force", student[0])
        gone = agent.reading_where(lambda reading: (reading.gpus[5].processes or ())[0].container_id is None)
    assert (gone.gpus[5].processes or ())[0].origin is ProcessOrigin.UNKNOWN


def test_the_agents_container_tells_the_same_without_any_right(
    image: str, student: tuple[str, int], simulator: Simulator, simulator_library: Path, tmp_path: Path
) -> None:
    load_gpu_5(simulator, student)
    certificate, key = write_certificate(tmp_path)
    token = write_private(tmp_path / "token", TOKEN.encode())
    for secret in (token, key):
        os.chown(secret, AGENT_UID, AGENT_UID)
    for mounted in (tmp_path, simulator_library.parent):
        mounted.chmod(0o755)
    container = docker(
        *("run", "--detach", "--pid", "host", "--cgroupns", "host", "--network", "host", "--read-only"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "128m"),
        *("--volume", f"{tmp_path}:/agent:ro", "--volume", f"{simulator_library.parent}:/simulator:ro"),
        *("--env", "LD_LIBRARY_PATH=/simulator", "--env", f"IDLHUB_SIMULATOR_STATE=/agent/{simulator.path.name}"),
        *(image, "--port", "0", "--server-name", "gpu07", "--token-file", "/agent/token"),
        *("--certificate", f"/agent/{certificate.name}", "--key", f"/agent/{key.name}"),
    )
    try:
        line = wait_for(lambda: " listens on " in (said := logs(container)) and said, "the agent to listen")
        url = line.strip().splitlines()[-1].split()[-1]
        headers = {"Authorization": f"Bearer {TOKEN}"}

        def reading() -> ServerReading | None:
            answer = requests.get(f"{url}/readings", headers=headers, verify=str(certificate), timeout=10)
            told = wire.decode(answer.content, time.time()) if answer.status_code == 200 else None
            return told if told and told.gpus and told.gpus[5].processes else None

        found = wait_for(reading, "a reading with processes")
        assert requests.get(f"{url}/readings", verify=str(certificate), timeout=10).status_code == 401
        status = Path(f"/proc/{docker('inspect', '--format', '{{.State.Pid}}', container)}/status").read_text()
    finally:
        docker("rm", "--force", container)
    assert found.server == "gpu07"
    assert found.health.ok
    assert_told_apart(found, student)
    assert f"Uid:\t{AGENT_UID}\t{AGENT_UID}" in status
    assert "CapEff:\t0000000000000000" in status


def logs(container: str) -> str:
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def test_the_image_holds_what_an_agent_needs_and_no_more(image: str) -> None:
    look = (
        "import importlib.metadata as m, json, pathlib, idl_hub, shutil;"
        "print(json.dumps([sorted(d.name for d in m.distributions()),"
        "sorted(p.name for p in pathlib.Path(idl_hub.__file__).parent.iterdir() if p.name != '__pycache__'),"
        "[p for p in ('pip', 'cc', 'docker', 'sudo', 'ssh') if shutil.which(p)]]))"
    )
    python = "/opt/idl_hub/venv/bin/python"
    distributions, package, programs = json.loads(docker("run", "--rm", "--entrypoint", python, image, "-c", look))
    assert distributions == ["nvidia-ml-py", "prometheus_client", "psutil", "tornado"]
    assert package == ["__init__.py", "cli.py", "gpus"]
    assert programs == []
    assert int(docker("image", "inspect", "--format", "{{.Size}}", image)) < 250 * 10**6


def test_the_container_refuses_to_lie_open(image: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", image, "--listen", "0.0.0.0"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "needs a token and TLS" in done.stderr


def test_the_image_brings_simulated_cards_to_a_server_without_a_compiler(image: str, tmp_path: Path) -> None:
    program = ROOT / "ansible" / "roles" / "gpu_agent" / "files" / "simulate.py"

    def placed(count: int) -> str:
        words = [
            "docker",
            "run",
            "--rm",
            "--interactive",
            "--network=none",
            "--user=0:0",
            "--read-only",
            "--cap-drop=ALL",
        ]
        words += [f"--volume={tmp_path}:/cards", "--entrypoint=/opt/idl_hub/venv/bin/python", image, "-"]
        words += ["/cards/libnvidia-ml.so.1", "/cards/state", str(count)]
        return subprocess.run(
            words, input=program.read_text(), check=True, capture_output=True, text=True, timeout=60
        ).stdout

    assert placed(2) == "library libnvidia-ml.so.1\n2 GPUs\n"
    simulator = Simulator(tmp_path / "state")
    before = simulator.gpus()
    simulator.set(0, temperature_celsius=70)
    assert placed(2) == "", "what is right is left alone"
    assert simulator.gpus()[0].temperature_celsius == 70
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"of an earlier version")
    assert placed(3) == "library libnvidia-ml.so.1\n3 GPUs\n"
    assert [gpu.uuid for gpu in simulator.gpus()[:2]] == [gpu.uuid for gpu in before]
