"""The benchmarks of placement, in a size for each change: that they still measure what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import placement, policies
from benchmarks.replay import (
    GPUS,
    GPUS_OF_A_SERVER,
    Cluster,
    Outcome,
    Outside,
    Policy,
    Replay,
    Task,
    read_openb,
    scaled,
)

NOBODY = Outside(share=0.0)
TASKS = tuple(Task(float(n * 7), 1 + (n % 40 == 0), 600.0 + 37 * (n % 50)) for n in range(400))


def test_a_decision_is_quick_at_every_size() -> None:
    results = placement.measure(repeats=50)
    assert {result.gpus for result in results} == set(placement.SIZES)
    assert not placement.too_slow(results), placement.as_text(results)


def test_the_slowest_answers_are_measured_too() -> None:
    answers = {result.what: result.answer for result in placement.measure(sizes=(80,), repeats=1)}
    assert answers["choose, nothing free"] == answers["fleet, nothing free"] == "of 80 GPUs: 80 taken"
    assert "free ones" in answers["fleet, half taken"]


def replayed(policy: Callable[[Cluster], Policy], tasks: tuple[Task, ...], outside: Outside = NOBODY) -> Outcome:
    cluster = Cluster()
    return Replay(cluster, policy(cluster), tasks, outside, 1).run()


def ours(cluster: Cluster) -> Policy:
    return policies.Ours(cluster, NOBODY)


@pytest.mark.parametrize("name", list(policies.policies(0, NOBODY)))
def test_who_comes_to_a_full_cluster_waits_until_somebody_leaves(name: str) -> None:
    tasks = (*(Task(0.0, 1, 1000.0) for _ in range(GPUS)), Task(10.0, 1, 5.0), Task(2000.0, 1, 5.0))
    outcome = replayed(policies.policies(0, NOBODY)[name], tasks)
    assert outcome.waits == (*[0.0] * GPUS, 990.0, 0.0)
    assert (outcome.met_share, outcome.wasted_gpu_hours) == (0.0, 0.0)


def test_who_wants_a_whole_server_lets_others_pass_and_what_idles_meanwhile_is_counted() -> None:
    singles = [Task(0.0, 1, 3600.0) for _ in range(10)]  # spread: one on each server
    tasks = (*singles, Task(0.0, GPUS_OF_A_SERVER, 10.0), Task(60.0, 1, 10.0), Task(7200.0, 1, 1.0))
    outcome = replayed(ours, tasks)
    assert outcome.waits[10:12] == (3600.0, 0.0)
    assert outcome.wasted_gpu_hours == pytest.approx(GPUS_OF_A_SERVER * 1.0, rel=0.01)


def test_who_shares_a_gpu_gets_on_at_half_the_speed_and_the_time_is_counted() -> None:
    always = Outside(share=50.0, median_seconds=1e9, sigma=0.0, careful=0.0)  # soon on every first GPU, for ever
    tasks = (Task(1e9, 1, 100.0), Task(1e9 + 150, GPUS_OF_A_SERVER, 1.0), Task(1e9 + 1000, 1, 1.0))
    outcome = replayed(lambda _: policies.first_free, tasks, always)
    assert outcome.waits[0] == 0
    assert outcome.met_share > 0.5


def test_scaled_arrivals_offer_the_load() -> None:
    for load in policies.LOADS:
        tasks = scaled(TASKS, load)
        offered = sum(task.gpus * task.lifetime for task in tasks) / GPUS / tasks[-1].arrives_at
        assert offered == pytest.approx(load)
        assert [task.lifetime for task in tasks] == [task.lifetime for task in TASKS]


def test_ours_meets_load_from_outside_least() -> None:
    rows = policies.compare(TASKS, loads=(0.7,), seeds=2)
    met = {row.policy: row.met_share for row in rows}
    assert len(met) == 7
    simpler = [share for name, share in met.items() if not name.startswith(policies.OURS) and "skipping" not in name]
    assert met[policies.OURS] < min(simpler), met
    assert "| 0.7 | ours |" in policies.as_text(rows)


def test_the_trace_is_read_without_tasks_that_never_ran(tmp_path: Path) -> None:
    header = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,"
    rows = ["b,1,1,1,500,,LS,Running,50,70,60", "a,1,1,8,1000,,LS,Running,10,5000,20"]
    left_out = ["c,1,1,0,0,,LS,Running,10,20,15", "d,1,1,1,1000,,LS,Failed,10,20,", "e,1,1,16,1000,,LS,Running,1,2,1"]
    text = "\n".join([header + "scheduled_time", *rows, *left_out])
    (tmp_path / "openb_pod_list_default.csv").write_text(text)
    assert read_openb(tmp_path) == (Task(10.0, 8, 4980.0), Task(50.0, 1, 10.0))
    assert read_openb(tmp_path, longest_seconds=100) == (Task(50.0, 1, 10.0),)
    assert read_openb(tmp_path, most_gpus=1) == (Task(50.0, 1, 10.0),)


def test_without_the_trace_the_benchmark_says_what_to_do(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(policies.__file__)), str(tmp_path)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "The trace is missing" in ended.stdout
    assert "give its folder as argument" in ended.stdout
