"""How long a start takes, from the click to a server that answers, against stock DockerSpawner.

    python tests/benchmarks/spawn.py --runs 10 --class-size 20

Both hubs run on this machine at the same time, with the same image, network and proxy, and take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[depth]) for depth in (1, 2)]

import requests
from benchmarks.stock import StockHub, listening_at
from hubs import Hub, wait_for

IMAGE = "idl-hub/student:latest"
DEFAULT_HTTP_TIMEOUT_SECONDS = 30
STAGES = ("before the container", "create", "start container", "Jupyter starts", "noticed", "proxy route")
_CLASS_DEADLINE_SECONDS = 400
_CONFIG = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from dockerspawner import DockerSpawner
from benchmarks.stages import arm
from idl_hub.spawners import GPUDockerSpawner
arm(Path({stages!r}), {spawner})
"""


@dataclass(frozen=True)
class Start:
    """One start. Times in seconds; `ready` is None when the server never answered."""

    user: str
    ready: float | None
    stages: dict[str, float]


@dataclass(frozen=True)
class Side:
    """What one hub did: starts one after the other, and the class at once."""

    alone: tuple[Start, ...]
    at_once: tuple[Start, ...]

    @property
    def alone_median(self) -> float:
        """Median time to ready of a start alone, in seconds."""
        return statistics.median(_times(self.alone))

    @property
    def at_once_ready(self) -> int:
        """How many of the class got a server."""
        return len(_times(self.at_once))


@dataclass(frozen=True)
class Result:
    """Both sides."""

    ours: Side
    stock: Side

    @property
    def ratio(self) -> float:
        """Our median alone as a share of stock's."""
        return self.ours.alone_median / self.stock.alone_median


def _times(starts: Sequence[Start]) -> list[float]:
    return [start.ready for start in starts if start.ready is not None]


@dataclass(frozen=True, eq=False)
class Contestant:
    """A running hub and the file in which it notes its stages."""

    hub: Hub
    stages: Path

    def start(self, user: str, deadline_seconds: float = 120) -> Start:
        """Ask for a server and time it until it answers through the proxy, as a browser would see it."""
        began = time.time()
        try:
            self.hub.api("POST", f"/users/{user}/server", timeout=deadline_seconds)
            if not self._told_ready(user, deadline_seconds):
                return Start(user, None, {})
            wait_for(lambda: self._answers(user), f"{user}'s server", 30, every_seconds=0.02)
        except requests.RequestException:
            return Start(user, None, {})
        ended = time.time()
        return Start(user, ended - began, self._stages(user, began, ended))

    def _told_ready(self, user: str, deadline_seconds: float) -> bool:
        """Follow the progress stream to its end."""
        answer = self.hub.api("GET", f"/users/{user}/server/progress", timeout=deadline_seconds)
        events = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")]
        return bool(events and events[-1].get("ready"))

    def _answers(self, user: str) -> bool:
        answer = requests.get(f"{self.hub.url}/user/{user}/api", timeout=30, allow_redirects=False)
        return answer.ok and "version" in answer.json()

    def _stages(self, user: str, began: float, ended: float) -> dict[str, float]:
        """Return seconds per stage, from what the hub noted and the container's own log."""
        lines = [json.loads(line) for line in self.stages.read_text(encoding="utf-8").splitlines()]
        noted = {line["stage"]: line for line in lines if line["user"] == user and line["began"] >= began}
        create, start = noted["create_object"], noted["start_object"]
        listening = listening_at(start["container"])
        checked = noted["_wait_up"]["ended"]
        seconds = (
            create["began"] - began,
            create["ended"] - create["began"],
            start["ended"] - create["ended"],
            listening - start["ended"],
            checked - listening,
            ended - checked,
        )
        return dict(zip(STAGES, seconds, strict=True))

    def stop(self, user: str) -> None:
        """Stop and wait until the hub is done with it."""
        self.hub.api("DELETE", f"/users/{user}/server", timeout=120)
        wait_for(lambda: self.hub.api("GET", f"/users/{user}").json()["pending"] is None, f"{user} to stop", 120)

    def alone(self, user: str) -> Start:
        """Start and stop one server."""
        start = self.start(user)
        self.stop(user)
        return start

    def all_at_once(self, size: int) -> tuple[Start, ...]:
        """Start a whole class in the same moment, then stop it."""
        users = [f"student{number}" for number in range(1, size + 1)]
        with ThreadPoolExecutor(size) as at_once:
            starts = tuple(at_once.map(lambda user: self.start(user, _CLASS_DEADLINE_SECONDS), users))
            list(at_once.map(self.stop, users))
        return starts


def measure(folder: Path, runs: int, class_size: int, image: str = IMAGE, stock_image: str = IMAGE) -> Result:
    """Let both hubs take turns.

    Parameters
    ----------
    runs
        Starts alone of each hub. Before more than one, each hub starts one server that does not count.
    class_size
        Servers started at once, first by one hub, then by the other.
    """
    with ExitStack() as running:
        ours = _contestant(running, folder, "ours", class_size, image)
        stock = _contestant(running, folder, "stock", class_size, stock_image)
        alone: dict[Contestant, list[Start]] = {ours: [], stock: []}
        for contestant in (ours, stock) if runs > 1 else ():
            contestant.alone("student1")
        for run in range(runs):
            for contestant in (ours, stock) if run % 2 == 0 else (stock, ours):
                alone[contestant].append(contestant.alone("student1"))
        at_once = {contestant: contestant.all_at_once(class_size) for contestant in (ours, stock)}
        sides = [Side(tuple(alone[contestant]), at_once[contestant]) for contestant in (ours, stock)]
    return Result(*sides)


def _contestant(running: ExitStack, folder: Path, name: str, students: int, image: str) -> Contestant:
    stages = folder / f"{name}.stages"
    spawner = "GPUDockerSpawner" if name == "ours" else "DockerSpawner"
    config = _CONFIG.format(tests=str(Path(__file__).parents[1]), stages=str(stages), spawner=spawner)
    hub: Hub
    if name == "ours":
        # Ours allows more; the comparison is under the hub's default.
        config += f"c.Spawner.http_timeout = {DEFAULT_HTTP_TIMEOUT_SECONDS}\n"
        settings = {"spawner": {"image": image}}
        hub = Hub(folder / name, gpus=students, students=students, settings=settings, config=config)
    else:
        hub = StockHub(folder / name, students=students, image=image, config=config)
    return Contestant(running.enter_context(hub), stages)


def as_text(result: Result) -> str:
    """Return the result as Markdown tables."""
    sides = {"idl_hub": result.ours, "stock DockerSpawner": result.stock}
    lines = ["| alone | starts | median s | fastest | slowest |", "|---|---|---|---|---|"]
    for name, side in sides.items():
        times = _times(side.alone)
        row = f"| {name} | {len(times)} of {len(side.alone)} | {side.alone_median:.2f} "
        lines.append(row + f"| {min(times):.2f} | {max(times):.2f} |")
    lines += ["", f"Ratio of the medians alone: {result.ratio:.2f}", ""]
    lines += [f"| stage, median s | {' | '.join(sides)} |", "|---|---|---|"]
    for stage in STAGES:
        medians = [statistics.median(s.stages[stage] for s in side.alone if s.stages) for side in sides.values()]
        lines.append(f"| {stage} | {' | '.join(f'{seconds:.2f}' for seconds in medians)} |")
    lines += ["", "| all at once | ready | median s | slowest |", "|---|---|---|---|"]
    for name, side in sides.items():
        times = _times(side.at_once)
        shown = f"{statistics.median(times):.2f} | {max(times):.2f}" if times else "- | -"
        lines.append(f"| {name} | {len(times)} of {len(side.at_once)} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10, help="starts alone of each hub")
    parser.add_argument("--class-size", type=int, default=20, help="servers started at once")
    parser.add_argument("--image", default=IMAGE, help="image of the servers")
    parser.add_argument("--stock-image", help="another image for stock, such as plain_image; else the same")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="idlhub-benchmark-") as folder:
        Path(folder).chmod(0o755)
        stock_image = options.stock_image or options.image
        result = measure(Path(folder), options.runs, options.class_size, options.image, stock_image)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end")
    print(f"images: {options.image}, stock {stock_image}\n")
    print(as_text(result))


if __name__ == "__main__":
    main()
