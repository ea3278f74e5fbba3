"""A cluster that replays a trace of tasks, with people from outside the hub on the same GPUs.

Events only, no clock of its own: a day of the trace takes milliseconds. Chance comes from a seed, and the
people from outside come at the same times and stay as long whatever the policy.
"""

from __future__ import annotations

import csv
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

SERVERS = 10
GPUS_OF_A_SERVER = 8
GPUS = SERVERS * GPUS_OF_A_SERVER
TASK_MEMORY_BYTES = 8 * 2**30
RATE_WHEN_SHARED = 0.5
"""Two programs on one GPU take turns: each gets on at half its speed."""


@dataclass(frozen=True)
class Task:
    """What somebody asks for; times in seconds."""

    arrives_at: float
    gpus: int
    lifetime: float
    """How long it runs with its GPUs to itself."""


@dataclass(frozen=True)
class Outside:
    """How people from outside the hub behave."""

    share: float = 0.08
    """Of all GPU time, on average."""
    median_seconds: float = 1800.0
    sigma: float = 1.2
    """Of the logarithm of how long they stay."""
    careful: float = 0.5
    """Of them so many look for a GPU without programs on it; the others take the first one of a server."""
    memory_bytes: int = 4 * 2**30

    @property
    def mean_seconds(self) -> float:
        return self.median_seconds * math.exp(self.sigma**2 / 2)


@dataclass(frozen=True)
class Outcome:
    """What a policy did."""

    waits: tuple[float, ...]
    """Of each task, seconds from its arrival to its start, or to the last arrival when it had not started by then."""
    met_share: float
    """Of the time that GPUs were leased: with somebody from outside on them, too."""
    wasted_gpu_hours: float
    """In which GPUs had nobody on them while as many were waited for."""


def read_openb(folder: Path, longest_seconds: float = math.inf, most_gpus: int = GPUS_OF_A_SERVER) -> tuple[Task, ...]:
    """Return the trace's tasks that ran and wanted a GPU, but not more than this, oldest first.

    Raises
    ------
    FileNotFoundError
        The folder has no such trace.
    """
    with (folder / "openb_pod_list_default.csv").open(newline="", encoding="utf-8") as file:
        found = [
            Task(float(row["creation_time"]), int(row["num_gpu"]), lifetime)
            for row in csv.DictReader(file)
            if row["deletion_time"] and row["scheduled_time"] and 1 <= int(row["num_gpu"]) <= most_gpus
            if 0 < (lifetime := float(row["deletion_time"]) - float(row["scheduled_time"])) <= longest_seconds
        ]
    return tuple(sorted(found, key=lambda task: task.arrives_at))


def scaled(tasks: Sequence[Task], load: float) -> tuple[Task, ...]:
    """Return the tasks with arrivals pressed together or pulled apart to this share of all GPUs."""
    first, last = tasks[0].arrives_at, tasks[-1].arrives_at
    wanted = sum(task.gpus * task.lifetime for task in tasks) / (GPUS * load)
    factor = wanted / (last - first)
    return tuple(replace(task, arrives_at=(task.arrives_at - first) * factor) for task in tasks)


class Cluster:
    """The state of all GPUs; what a policy may look at. A GPU's number counts through all servers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.leased = [False] * GPUS
        self.outside = [0] * GPUS
        self.on_change: Callable[[int], None] = lambda _gpu: None
        """Called before anything of a GPU changes."""

    def free_by_ledger(self, server: int) -> list[int]:
        first = server * GPUS_OF_A_SERVER
        return [gpu for gpu in range(first, first + GPUS_OF_A_SERVER) if not self.leased[gpu]]

    def memory_used_bytes(self, gpu: int, outside: Outside) -> int:
        return self.leased[gpu] * TASK_MEMORY_BYTES + self.outside[gpu] * outside.memory_bytes


Policy = Callable[[Cluster, int], list[int] | None]
"""From the cluster and a number of GPUs to GPUs of one server, None when nothing fits."""


@dataclass(slots=True)
class _Running:
    gpus: list[int]
    left: float
    since: float
    rate: float
    version: int = 0


class Replay:
    """One run of one policy."""

    def __init__(self, cluster: Cluster, policy: Policy, tasks: Sequence[Task], outside: Outside, seed: int) -> None:
        self._cluster = cluster
        self._policy = policy
        self._tasks = tasks
        self._outside = outside
        self._chance = random.Random(seed)
        self._events: list[tuple[float, int, str, tuple[int, ...]]] = []
        self._count = 0
        self._waiting: dict[int, deque[int]] = {}
        self._running: dict[int, _Running] = {}
        self._on_gpu: list[int | None] = [None] * GPUS
        self._waits: dict[int, float] = {}
        self._leased = self._met = self._idle = 0
        self._leased_time = self._met_time = self._wasted_time = 0.0

    def run(self) -> Outcome:
        """Go through the events until the last task arrives."""
        self._idle = GPUS
        for number, task in enumerate(self._tasks):
            self._at(task.arrives_at, "arrives", number)
        self._next_outsider()
        end = self._tasks[-1].arrives_at
        while self._events and self._events[0][0] <= end:
            at, _, kind, arguments = heapq.heappop(self._events)
            self._pass_time(at)
            if getattr(self, f"_{kind}")(*arguments):
                self._serve()
        waits = tuple(self._waits.get(number, end - task.arrives_at) for number, task in enumerate(self._tasks))
        return Outcome(waits, self._met_time / self._leased_time, self._wasted_time / 3600)

    def _at(self, at: float, kind: str, *arguments: int) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, kind, arguments))

    def _pass_time(self, at: float) -> None:
        seconds = at - self._cluster.now
        self._leased_time += seconds * self._leased
        self._met_time += seconds * self._met
        wanted = sum(gpus * len(line) for gpus, line in self._waiting.items())
        self._wasted_time += seconds * min(self._idle, wanted)
        self._cluster.now = at

    # What happens; each says whether somebody may now get a GPU.

    def _arrives(self, number: int) -> bool:
        self._waiting.setdefault(self._tasks[number].gpus, deque()).append(number)
        return True

    def _ends(self, number: int, version: int) -> bool:
        running = self._running.get(number)
        if running is None or running.version != version:
            return False
        del self._running[number]
        for gpu in running.gpus:
            self._on_gpu[gpu] = None
            self._set(gpu, leased=False)
        return True

    def _outsider_comes(self) -> bool:
        seconds = self._chance.lognormvariate(math.log(self._outside.median_seconds), self._outside.sigma)
        gpu = self._outsiders_choice()
        self._set(gpu, outside=1)
        self._at(self._cluster.now + seconds, "outsider_goes", gpu)
        self._next_outsider()
        return False

    def _outsider_goes(self, gpu: int) -> bool:
        self._set(gpu, outside=-1)
        return not self._cluster.leased[gpu]

    def _next_outsider(self) -> None:
        rate = self._outside.share * GPUS / self._outside.mean_seconds
        if rate:
            self._at(self._cluster.now + self._chance.expovariate(rate), "outsider_comes")

    def _outsiders_choice(self) -> int:
        first = self._chance.randrange(SERVERS) * GPUS_OF_A_SERVER
        careful, chance = self._chance.random() < self._outside.careful, self._chance.random()
        if not careful:
            return first
        cluster = self._cluster
        own = range(first, first + GPUS_OF_A_SERVER)
        quiet = [gpu for gpu in own if not cluster.leased[gpu] and not cluster.outside[gpu]]
        return (quiet or list(own))[int(chance * len(quiet or own))]

    # Giving out.

    def _serve(self) -> None:
        """Give GPUs to those who wait, first come, first served; what does not fit lets those behind it pass."""
        hopeless = GPUS_OF_A_SERVER + 1
        while True:
            first = [(line[0], gpus) for gpus, line in self._waiting.items() if line and gpus < hopeless]
            if not first:
                return
            number, gpus = min(first)
            chosen = self._policy(self._cluster, gpus)
            if chosen is None:
                hopeless = min(hopeless, gpus)
                continue
            self._waiting[gpus].popleft()
            self._start(number, chosen)

    def _start(self, number: int, gpus: list[int]) -> None:
        now = self._cluster.now
        self._waits[number] = now - self._tasks[number].arrives_at
        self._running[number] = _Running(gpus, self._tasks[number].lifetime, now, 1.0)
        for gpu in gpus:
            self._on_gpu[gpu] = number
            self._set(gpu, leased=True)
        self._reckon(number)

    def _set(self, gpu: int, *, leased: bool | None = None, outside: int = 0) -> None:
        """Change a GPU and all counts that hang on it."""
        cluster = self._cluster
        self._count_gpu(gpu, -1)
        cluster.on_change(gpu)
        if leased is not None:
            cluster.leased[gpu] = leased
        cluster.outside[gpu] += outside
        self._count_gpu(gpu, 1)
        number = self._on_gpu[gpu]
        if outside and number is not None:
            self._reckon(number)

    def _count_gpu(self, gpu: int, sign: int) -> None:
        leased, outside = self._cluster.leased[gpu], self._cluster.outside[gpu] > 0
        self._leased += sign * leased
        self._met += sign * (leased and outside)
        self._idle += sign * (not leased and not outside)

    def _reckon(self, number: int) -> None:
        """Say anew when a task will end: it is as fast as the slowest of its GPUs."""
        running, now = self._running[number], self._cluster.now
        running.left -= (now - running.since) * running.rate
        shared = any(self._cluster.outside[gpu] for gpu in running.gpus)
        running.since, running.rate = now, RATE_WHEN_SHARED if shared else 1.0
        running.version += 1
        self._at(now + max(0.0, running.left) / running.rate, "ends", number, running.version)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
