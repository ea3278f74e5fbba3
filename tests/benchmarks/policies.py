"""Our placement against simpler ones, on a replayed trace with people from outside on the same GPUs.

    python tests/benchmarks/policies.py [FOLDER]

FOLDER holds the trace "openb" (cluster-trace-gpu-v2023: openb_pod_list_default.csv). It is a production
trace, not a class of students.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[depth]) for depth in (1, 2)]

from benchmarks.replay import (
    GPUS,
    GPUS_OF_A_SERVER,
    SERVERS,
    Cluster,
    Outcome,
    Outside,
    Policy,
    Replay,
    Task,
    percentile,
    read_openb,
    scaled,
)

from idl_hub.gpus.history import DAY_SECONDS, averaged
from idl_hub.gpus.placement import NoGPU, Remembered, Rules, choose
from idl_hub.gpus.reading import GPU, HEALTHY, Process, ServerFigures, ServerReading

DEFAULT_FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "openb"
OUTSIDE = Outside()
LOADS = (0.7, 0.9, 1.1)
OURS = "ours"
_MEMORY_BYTES = 11264 * 2**20
_LEASE_UTILIZATION = 0.5


class Ours:
    """The product's rule, given readings as agents would send them, with what the hub would remember."""

    def __init__(self, cluster: Cluster, outside: Outside, *, visits_count: bool = True) -> None:
        self._visits_count = visits_count
        self._cluster = cluster
        self._outside = outside
        self._averages: list[float | None] = [0.0] * GPUS
        self._visits: list[float | None] = [0.0] * GPUS
        self._since = [0.0] * GPUS
        self._changed = set(range(SERVERS))
        self._readings: list[ServerReading | None] = [None] * SERVERS
        self._rules = Rules()
        cluster.on_change = self._before_change

    def __call__(self, cluster: Cluster, gpu_count: int) -> list[int] | None:
        """Choose GPUs of one server."""
        servers = [self._reading(server) for server in range(SERVERS)]
        free = [gpu for gpu in range(GPUS) if not cluster.leased[gpu]]
        holders = {str(gpu): "somebody" for gpu in range(GPUS) if cluster.leased[gpu]}
        remembered = {str(gpu): self._remembered(gpu) for gpu in free}
        found = choose(servers, holders, gpu_count, self._rules, cluster.now, remembered=remembered)
        return None if isinstance(found, NoGPU) else [int(gpu.uuid) for gpu in found.gpus]

    def _before_change(self, gpu: int) -> None:
        self._averages[gpu], self._visits[gpu] = self._average(gpu), self._visited(gpu)
        self._since[gpu] = self._cluster.now
        self._changed.add(gpu // GPUS_OF_A_SERVER)

    def _utilization(self, gpu: int) -> float:
        return min(1.0, _LEASE_UTILIZATION * self._cluster.leased[gpu] + 0.9 * self._cluster.outside[gpu])

    def _remembered(self, gpu: int) -> Remembered:
        return Remembered(self._average(gpu), outside_ratio=self._visited(gpu) or 0.0)

    def _visited(self, gpu: int) -> float | None:
        if not self._visits_count:
            return 0.0
        seconds = self._cluster.now - self._since[gpu]
        return averaged(self._visits[gpu], float(self._cluster.outside[gpu] > 0), seconds, DAY_SECONDS)

    def _average(self, gpu: int) -> float | None:
        return averaged(self._averages[gpu], self._utilization(gpu), self._cluster.now - self._since[gpu])

    def _reading(self, server: int) -> ServerReading:
        reading = self._readings[server]
        if reading is None or server in self._changed:
            self._changed.discard(server)
            first = server * GPUS_OF_A_SERVER
            cards = tuple(self._card(gpu) for gpu in range(first, first + GPUS_OF_A_SERVER))
            busy = sum(self._cluster.leased[first : first + GPUS_OF_A_SERVER]) / GPUS_OF_A_SERVER
            figures = ServerFigures(24, 0.6 * busy, 0.0, 0.0, 0.0, 2**38, int(2**38 * (1 - 0.8 * busy)), 0.0)
            reading = ServerReading(f"gpu{server:02}", 0.0, HEALTHY, cards, figures=figures)
            self._readings[server] = reading
        return replace(reading, taken_at=self._cluster.now)

    def _card(self, gpu: int) -> GPU:
        cluster = self._cluster
        return GPU(
            str(gpu),
            gpu % GPUS_OF_A_SERVER,
            HEALTHY,
            memory_total_bytes=_MEMORY_BYTES,
            memory_used_bytes=min(_MEMORY_BYTES, cluster.memory_used_bytes(gpu, self._outside)),
            utilization_ratio=self._utilization(gpu),
            processes=tuple(Process(1 + number) for number in range(cluster.outside[gpu])),
        )


def random_one(seed: int, *, skip_loaded: bool = False) -> Policy:
    """Choose any server that has enough, and any of its GPUs; perhaps none that somebody from outside uses."""
    chance = random.Random(seed)

    def policy(cluster: Cluster, gpu_count: int) -> list[int] | None:
        places = [
            [gpu for gpu in cluster.free_by_ledger(server) if not (skip_loaded and cluster.outside[gpu])]
            for server in range(SERVERS)
        ]
        fitting = [free for free in places if len(free) >= gpu_count]
        return chance.sample(chance.choice(fitting), gpu_count) if fitting else None

    return policy


def first_free(cluster: Cluster, gpu_count: int) -> list[int] | None:
    """Choose the lowest numbers of the first server that has enough."""
    for server in range(SERVERS):
        free = cluster.free_by_ledger(server)
        if len(free) >= gpu_count:
            return free[:gpu_count]
    return None


def fewest_sessions(cluster: Cluster, gpu_count: int) -> list[int] | None:
    """Choose the lowest numbers of the server with most free GPUs."""
    free = max((cluster.free_by_ledger(server) for server in range(SERVERS)), key=len)
    return free[:gpu_count] if len(free) >= gpu_count else None


def most_free_memory(outside: Outside) -> Policy:
    """Choose by NVML's free memory among those that the ledger has free."""

    def policy(cluster: Cluster, gpu_count: int) -> list[int] | None:
        best: tuple[int, list[int]] | None = None
        for server in range(SERVERS):
            free = sorted(
                cluster.free_by_ledger(server), key=lambda gpu: (cluster.memory_used_bytes(gpu, outside), gpu)
            )[:gpu_count]
            used = sum(cluster.memory_used_bytes(gpu, outside) for gpu in free)
            if len(free) == gpu_count and (best is None or used < best[0]):
                best = used, free
        return best[1] if best else None

    return policy


@dataclass(frozen=True)
class Row:
    """What one policy did at one load; means over the seeds."""

    load: float
    policy: str
    wait_median: float
    """Seconds."""
    wait_p95: float
    """Seconds."""
    met_share: float
    wasted_gpu_hours: float


def policies(seed: int, outside: Outside) -> dict[str, Callable[[Cluster], Policy]]:
    """Return name -> what makes the policy for a cluster."""
    return {
        OURS: lambda cluster: Ours(cluster, outside),
        "ours, forgetting visits": lambda cluster: Ours(cluster, outside, visits_count=False),
        "random": lambda _: random_one(seed),
        "first free": lambda _: first_free,
        "fewest sessions": lambda _: fewest_sessions,
        "most free memory": lambda _: most_free_memory(outside),
        "random, skipping loaded": lambda _: random_one(seed, skip_loaded=True),
    }


def compare(
    tasks: Sequence[Task], loads: Sequence[float] = LOADS, seeds: int = 3, outside: Outside = OUTSIDE
) -> tuple[Row, ...]:
    """Replay the tasks with every policy at every load."""
    rows = []
    for load in loads:
        arrivals = scaled(tasks, load)
        for name in policies(0, outside):
            outcomes = [_replayed(name, arrivals, outside, seed) for seed in range(seeds)]
            rows.append(_row(load, name, outcomes))
    return tuple(rows)


def _replayed(name: str, arrivals: Sequence[Task], outside: Outside, seed: int) -> Outcome:
    cluster = Cluster()
    return Replay(cluster, policies(seed, outside)[name](cluster), arrivals, outside, seed).run()


def _row(load: float, name: str, outcomes: Sequence[Outcome]) -> Row:
    mean = statistics.fmean
    return Row(
        load,
        name,
        mean(statistics.median(outcome.waits) for outcome in outcomes),
        mean(percentile(outcome.waits, 0.95) for outcome in outcomes),
        mean(outcome.met_share for outcome in outcomes),
        mean(outcome.wasted_gpu_hours for outcome in outcomes),
    )


def as_text(rows: Sequence[Row]) -> str:
    """Return the table for people."""
    lines = [
        "| load | policy | median wait | p95 wait | two loads meet | GPU hours idle while somebody waits |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        waits = f"{_duration(row.wait_median)} | {_duration(row.wait_p95)}"
        lines.append(f"| {row.load} | {row.policy} | {waits} | {row.met_share:.2%} | {row.wasted_gpu_hours:.1f} |")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def main() -> int:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER, help="where the trace lies")
    parser.add_argument("--seeds", type=int, default=3, help="how often each is replayed (%(default)s)")
    parser.add_argument(
        "--longest-hours", type=float, default=math.inf, help="leave out tasks that live longer (%(default)s)"
    )
    parser.add_argument(
        "--most-gpus", type=int, default=GPUS_OF_A_SERVER, help="leave out tasks that want more (%(default)s)"
    )
    parser.add_argument(
        "--outside", type=float, default=OUTSIDE.share, help="share of GPU time of people from outside (%(default)s)"
    )
    parser.add_argument(
        "--careful", type=float, default=OUTSIDE.careful, help="of them, who look for a quiet card (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    arguments = parser.parse_args()
    try:
        tasks = read_openb(arguments.folder, arguments.longest_hours * 3600, arguments.most_gpus)
    except FileNotFoundError as error:
        print(f"The trace is missing: {error}. Get cluster-trace-gpu-v2023 and give its folder as argument.")
        return 2
    outside = replace(OUTSIDE, share=arguments.outside, careful=arguments.careful)
    rows = compare(tasks, seeds=arguments.seeds, outside=outside)
    print(f"{len(tasks)} tasks of a production trace (not a class) on {GPUS} GPUs; means of {arguments.seeds} seeds.\n")
    print(as_text(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
