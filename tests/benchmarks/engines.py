"""How long a container takes on another server's engine through ours, against plain ``docker run``.

    python tests/benchmarks/engines.py --runs 20

Both ask the same engine over TLS for the same container, and take turns. Goal: less than a fifth more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[depth]) for depth in (1, 2)]

from cluster import Cluster
from cluster_server import STUDENT_NETWORK, Server

from idl_hub.settings_servers import EngineSettings
from idl_hub.spawners.engine import Engine

PORT = 8888
MEMORY = "64m"
MEMORY_BYTES = 64 * 2**20
_COMMAND = ("sleep", "600")


@dataclass(frozen=True)
class Result:
    """Seconds from the request to a container that runs, one for each run."""

    ours: tuple[float, ...]
    plain: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Our median as a multiple of the plain one."""
        return statistics.median(self.ours) / statistics.median(self.plain)


def measure(folder: Path, runs: int) -> Result:
    """Time both in turns on a server of its own; the first turn warms up and does not count."""
    with Cluster(folder, count=1, gpus=0) as cluster:
        server = cluster.servers[0]
        settings = EngineSettings.model_validate(server.settings()["engine"])
        return asyncio.run(_measure(Engine(server.name, settings, server.address), server, cluster.images[0], runs))


async def _measure(engine: Engine, server: Server, image: str, runs: int) -> Result:
    ours, plain = [], []
    try:
        for _ in range(runs + 1):
            ours.append(await _ours(engine, server, image))
            plain.append(_plain(server, image))
    finally:
        engine.close()
    return Result(tuple(ours[1:]), tuple(plain[1:]))


async def _ours(engine: Engine, server: Server, image: str) -> float:
    began = time.monotonic()
    host_config = await asyncio.to_thread(
        lambda: engine.client.create_host_config(
            network_mode=STUDENT_NETWORK,
            port_bindings={PORT: (server.address,)},
            mem_limit=MEMORY_BYTES,
            memswap_limit=MEMORY_BYTES,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
        )
    )
    made = await engine.call(
        "create_container", image=image, command=list(_COMMAND), ports=[PORT], host_config=host_config
    )
    await engine.call("start", made["Id"])
    took = time.monotonic() - began
    _remove(server, made["Id"])
    return took


def _plain(server: Server, image: str) -> float:
    keys = server.keys
    command = ["docker", "--host", server.engine_url, "--tlsverify", "--tlscacert", str(keys.authority)]
    command += ["--tlscert", str(keys.certificate), "--tlskey", str(keys.key), "run", "--detach"]
    command += ["--network", STUDENT_NETWORK, "--publish", f"{server.address}::{PORT}", "--memory", MEMORY]
    command += ["--memory-swap", MEMORY, "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    began = time.monotonic()
    done = subprocess.run([*command, image, *_COMMAND], capture_output=True, text=True, timeout=60)
    took = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    _remove(server, done.stdout.strip())
    return took


def _remove(server: Server, container: str) -> None:
    server.docker("rm", "--force", container)


def as_text(result: Result) -> str:
    """Return the result for people to read."""
    lines = [f"Create and start on another server's engine, over TLS, in {len(result.ours)} runs each:"]
    for name, times in (("through our engine", result.ours), ("plain docker run", result.plain)):
        lines.append(f"  {name:<20} median {statistics.median(times):.3f} s, {min(times):.3f} to {max(times):.3f} s")
    return "\n".join([*lines, f"Ratio of the medians: {result.ratio:.2f}", f"Load: {os.getloadavg()[0]:.1f}"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(as_text(measure(Path(folder), options.runs)))


if __name__ == "__main__":
    main()
