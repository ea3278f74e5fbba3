"""What the agent costs the server it watches, beside nvitop-exporter on the same simulated GPUs.

    python tests/benchmarks/agent.py --seconds 60

Both read eight GPUs with three processes each, once a second. The agent is asked for its readings every
second over TLS, as the hub does; both are scraped every 15 seconds, as Prometheus does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[depth]) for depth in (1, 2)]

import psutil
import requests
from agents import RunningAgent

from idl_hub.gpus.simulator import SimulatedProcess, Simulator, build

GPUS = 8
PROCESSES_PER_GPU = 3
SCRAPE_SECONDS = 15.0
GOAL_CPU_RATIO = 0.01
GOAL_RSS_BYTES = 60 * 10**6
_START_SECONDS = 60


@dataclass(frozen=True)
class Cost:
    """What one program used while it was watched."""

    name: str
    seconds: float
    cpu_seconds: float
    rss_bytes: int
    """Resident memory at the end, libraries included."""

    @property
    def cpu_ratio(self) -> float:
        """Share of one core."""
        return self.cpu_seconds / self.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return whether the goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long to watch (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    options = parser.parse_args(arguments)
    costs = measure(options.seconds)
    for cost in costs:
        print(f"{cost.name:16} {cost.cpu_ratio:7.2%} of a core  {cost.rss_bytes / 1e6:6.1f} MB  ({cost.seconds:.0f} s)")
    agent, exporter = costs
    print(f"The agent uses {agent.cpu_seconds / exporter.cpu_seconds:.0%} of the exporter's processor time.")
    if options.json:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n")
    met = agent.cpu_ratio <= GOAL_CPU_RATIO and agent.rss_bytes <= GOAL_RSS_BYTES
    print(
        f"Goal, at most {GOAL_CPU_RATIO:.0%} of a core and {GOAL_RSS_BYTES / 1e6:.0f} MB: {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


def measure(seconds: float) -> tuple[Cost, Cost]:
    """Return the cost of the agent and of nvitop-exporter, watched at the same time."""
    with tempfile.TemporaryDirectory(prefix="idl-hub-benchmark-") as folder, _processes() as pids:
        directory = Path(folder)
        simulator, library = Simulator(directory / "gpus.state"), build(directory / "lib")
        simulator.create(GPUS)
        for gpu in range(GPUS):
            mine = pids[gpu * PROCESSES_PER_GPU : (gpu + 1) * PROCESSES_PER_GPU]
            simulator.set(gpu, utilization_ratio=0.5, processes=[SimulatedProcess(pid, 3 * 2**30) for pid in mine])
        with RunningAgent(simulator, library, directory) as agent, _exporter(simulator, library) as exporter:
            exporter_url = exporter[1]
            agent.reading_where(lambda reading: all(len(gpu.processes or ()) == 3 for gpu in reading.gpus))
            _wait_for_metrics(exporter_url)
            with _Watch("agent", agent.process.pid) as first, _Watch("nvitop-exporter", exporter[0].pid) as second:
                _ask(agent, exporter_url, seconds)
            return first.cost(), second.cost()


def _ask(agent: RunningAgent, exporter_url: str, seconds: float) -> None:
    """Ask both as often as hub and Prometheus do, over connections that are kept."""
    hub, prometheus = requests.Session(), requests.Session()
    for session in (hub, prometheus):
        session.verify = str(agent.certificate)
        session.headers["Authorization"] = f"Bearer {agent.token}"
        session.trust_env = False
    start = next_poll = next_scrape = time.monotonic()
    with hub, prometheus:
        while (now := time.monotonic()) < start + seconds:
            if now >= next_scrape:
                next_scrape += SCRAPE_SECONDS
                for url in (agent.url + "/metrics", exporter_url):
                    prometheus.get(url, timeout=10).raise_for_status()
            hub.get(agent.url + "/readings", timeout=10).raise_for_status()
            next_poll += 1
            time.sleep(max(0.0, min(next_poll, start + seconds) - time.monotonic()))


class _Watch:
    """Processor time of a process between entering and leaving."""

    def __init__(self, name: str, pid: int) -> None:
        self._name = name
        self._process = psutil.Process(pid)

    def __enter__(self) -> _Watch:
        self._start = time.monotonic()
        self._cpu_at_start = self._cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self._cost = Cost(
            self._name,
            time.monotonic() - self._start,
            self._cpu_seconds() - self._cpu_at_start,
            self._process.memory_info().rss,
        )

    def cost(self) -> Cost:
        return self._cost

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def _processes() -> Iterator[list[int]]:
    """Give the PIDs of processes that stand for programs on the GPUs."""
    sleeping = [subprocess.Popen(["sleep", "infinity"]) for _ in range(GPUS * PROCESSES_PER_GPU)]
    try:
        yield [process.pid for process in sleeping]
    finally:
        for process in sleeping:
            process.kill()
            process.wait(10)


@contextlib.contextmanager
def _exporter(simulator: Simulator, library: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = Path(sys.executable).parent / "nvitop-exporter"
    command = [str(program), "--hostname", "here", "--port", port, "--interval", "1"]
    environment = os.environ | simulator.environment(library)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process, f"http://127.0.0.1:{port}/metrics"
        finally:
            process.kill()


def _wait_for_metrics(url: str) -> None:
    def complete() -> bool:
        try:
            return requests.get(url, timeout=5).text.count("gpu_utilization_Percentage{") == GPUS
        except requests.ConnectionError:
            return False

    _wait_until(complete)


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _START_SECONDS
    while not condition():
        assert time.monotonic() < end, "nvitop-exporter did not show all GPUs in time"
        time.sleep(0.1)  # it sends no event


if __name__ == "__main__":
    sys.exit(main())
