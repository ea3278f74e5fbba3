"""The tools that people know, unmodified, on simulated GPUs."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from idl_hub.gpus.simulator import Fault, SimulatedProcess, Simulator

pytest_plugins = ["simulated_gpus"]

SCRIPTS = Path(sys.executable).parent
GIB = 2**30


@pytest.fixture
def environment(simulator: Simulator, simulator_library: Path) -> dict[str, str]:
    """What a tool's process gets; GPU 3 is busy with this process, and with one from elsewhere."""
    mine = [SimulatedProcess(os.getpid(), 8 * GIB), SimulatedProcess(4_194_311, GIB)]
    simulator.set(3, utilization_ratio=0.8, temperature_celsius=71, power_watts=201, processes=mine)
    return os.environ | simulator.environment(simulator_library) | {"LC_ALL": "C.UTF-8", "COLUMNS": "120"}


def output(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        [SCRIPTS / command[0], *command[1:]], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nvitop_shows_eight_1080_tis_and_who_uses_them(environment: dict[str, str]) -> None:
    shown = output(environment, "nvitop", "-1")
    assert len(re.findall(r"GeForce GTX 1080 Ti", shown)) == 8
    assert "Driver Version: 580.95.05" in shown
    assert re.search(r"71C +P2 +201W / 250W", shown)
    assert re.search(r"9216MiB / 11264MiB", shown)
    assert re.search(rf"3 +{os.getpid()} C", shown)


def test_nvitop_in_a_container_shows_exactly_its_gpu(environment: dict[str, str], simulator: Simulator) -> None:
    shown = output(environment | {"NVIDIA_VISIBLE_DEVICES": simulator.gpus()[6].uuid}, "nvitop", "-1")
    assert shown.count("GeForce GTX 1080 Ti") == 1
    assert "00000000:0A:00.0" in shown


def test_nvitop_marks_a_lost_gpu_and_shows_the_others(environment: dict[str, str], simulator: Simulator) -> None:
    simulator.set(2, fault=Fault.lost())
    shown = output(environment, "nvitop", "-1")
    assert shown.count("GeForce GTX 1080 Ti") == 7
    assert "GPU is Lost" in shown or "GPU is lost" in shown


def test_gpustat_shows_the_load_in_words_and_as_json(environment: dict[str, str], simulator: Simulator) -> None:
    assert output(environment, "gpustat", "--no-color").count("NVIDIA GeForce GTX 1080 Ti") == 8
    told = json.loads(output(environment, "gpustat", "--json"))
    assert [gpu["uuid"] for gpu in told["gpus"]] == [gpu.uuid for gpu in simulator.gpus()]
    busy = told["gpus"][3]
    assert (busy["utilization.gpu"], busy["temperature.gpu"], busy["memory.used"]) == (80, 71, 9216)
    assert (busy["memory.total"], busy["power.draw"]) == (11264, 201)
    assert os.getpid() in [process["pid"] for process in busy["processes"]]


def test_nvitop_exporter_serves_metrics_of_all_eight(environment: dict[str, str], simulator: Simulator) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(SCRIPTS / "nvitop-exporter"), "--hostname", "here", "--port", str(port), "--interval", "0.5"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as exporter:
        try:
            metrics = scrape_until(f"http://127.0.0.1:{port}/metrics", lambda text: len(utilization_percent(text)) == 8)
        finally:
            exporter.terminate()
    utilization = utilization_percent(metrics)
    assert utilization.keys() == {gpu.uuid for gpu in simulator.gpus()}
    assert utilization[simulator.gpus()[3].uuid] == "80.0"


def utilization_percent(metrics: str) -> dict[str, str]:
    return dict(re.findall(r'^gpu_utilization_Percentage\{.*uuid="([^"]+)".*\} ([\d.]+)$', metrics, re.MULTILINE))


def scrape_until(url: str, complete: Callable[[str], bool]) -> str:
    end = time.monotonic() + 30
    text = ""
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            text = "nothing listens"
        if complete(text):
            return text
        time.sleep(0.1)
    pytest.fail(f"incomplete after 30 s: {text[-2000:]}")
