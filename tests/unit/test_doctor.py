"""What the doctor makes of what it sees."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from idl_hub import doctor
from idl_hub.cli import main
from idl_hub.doctor import agents, certificates, files, report, tables
from idl_hub.doctor.examine import CHECKS, Job, compare, run, soften
from idl_hub.doctor.look import judge_clock
from idl_hub.doctor.result import Found, Problem, Result, State
from idl_hub.gpus.reading import GPU, HEALTHY, Disk, Health, HealthState, ServerFigures, ServerReading
from idl_hub.settings import Settings
from idl_hub.settings_servers import ServerSettings

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0
DAY = 86_400


def texts(found: Found) -> list[tuple[State, str]]:
    return [(problem.state, problem.text) for problem in found.problems]


# -- certificates and clocks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lasts", "left", "state", "words"),
    [
        (825, 90, State.OK, ""),
        (825, 20, State.WARNING, "ends in 20.0 days"),
        (825, 2, State.FAILED, "ends in 2.0 days"),
        (825, -1, State.FAILED, "ended 1.0 days ago: nobody trusts it any more"),
        (825, 900, State.FAILED, "is not valid yet: a clock is wrong"),
        (0.5, 0.2, State.OK, ""),
        (0.5, 0.1, State.WARNING, "ends in 0.1 days"),
        (0.5, 0.01, State.FAILED, "ends in 0.0 days"),
    ],
)
def test_a_certificate_is_judged_by_the_days_it_has_left_and_by_how_long_it_lasts(
    lasts: float, left: float, state: State, words: str
) -> None:
    found, until = Found(), NOW + left * DAY
    certificates.judge(found, "hub.example.org", certificates.Valid(until - lasts * DAY, until), "renew it", NOW)
    assert found.certificates == {"hub.example.org": until}
    assert [problem.state for problem in found.problems] == ([] if state is State.OK else [state])
    assert all(words in problem.text for problem in found.problems)


@pytest.mark.parametrize(
    ("off_seconds", "state"),
    [(0, State.OK), (-1, State.OK), (5, State.WARNING), (-60, State.FAILED), (60, State.FAILED)],
)
def test_a_clock_is_compared_by_the_date_of_an_answer(off_seconds: float, state: State) -> None:
    found, now = Found(), time.time()
    judge_clock(found, {"Date": formatdate(now + off_seconds, usegmt=True)}, 10, now)
    assert Result("engine", "gpu01", problems=tuple(found.problems)).state is state
    words = "ahead of" if off_seconds > 0 else "behind"
    assert all(f"{words} the hub's" in problem.text for problem in found.problems)


def test_an_answer_without_a_date_proves_nothing_about_the_clock() -> None:
    found = Found()
    judge_clock(found, {"Date": "yesterday"}, 10, time.time())
    judge_clock(found, {}, 10, time.time())
    assert not found.problems


# -- GPUs ------------------------------------------------------------------------------------------------------


def reading(*gpus: GPU, **more: Any) -> ServerReading:
    values: dict[str, Any] = {"taken_at": NOW, "health": HEALTHY, "driver_version": "580.95.05"}
    return ServerReading("gpu01", gpus=gpus, **(values | more))


def server(**more: Any) -> ServerSettings:
    return ServerSettings(name="gpu01", **more)


GOOD = GPU("GPU-1", 0, HEALTHY, "GTX 1080 Ti")


def judged(read: ServerReading, of: ServerSettings | None = None, seen: dict[str, str] | None = None) -> Found:
    found = Found()
    agents.judge_reading(found, read, of or server(), seen or {}, 10, NOW)
    return found


def test_a_server_with_the_gpus_it_should_have_is_well() -> None:
    found = judged(reading(GOOD), server(gpus=1), {"GPU-1": "yesterday"})
    assert not found.problems
    assert found.facts == ["1 GPUs (GTX 1080 Ti)"]
    assert found.versions == {"kind of GPU": "GTX 1080 Ti", "NVIDIA driver": "580.95.05"}


def test_a_missing_gpu_is_noticed_by_number_and_by_who_was_there() -> None:
    found = judged(reading(GOOD), server(gpus=2), {"GPU-2": "2026-11-01 10:00:00"})
    assert texts(found) == [
        (State.FAILED, "it shows 1 GPUs, and the settings say that it has 2"),
        (State.WARNING, "the GPU GPU-2 was given out there at 2026-11-01 10:00:00 and is not there any more"),
    ]


def test_sick_gpus_stale_readings_and_full_disks_are_named() -> None:
    lost = GPU("GPU-2", 1, Health(HealthState.LOST, 15, "it fell off the bus"))
    disks = (Disk("/var/lib/docker", 100 * 2**30, 2**30), Disk("/srv"))
    figures = ServerFigures(8, 0.1, 0, 0, 0, 2**30, 2**29, NOW - DAY, disks)
    found = judged(reading(GOOD, lost, taken_at=NOW - 60, figures=figures))
    assert texts(found) == [
        (State.FAILED, "its newest reading is 60 s old: its GPUs are given to nobody"),
        (State.FAILED, "GPU 1 (GPU-2) is sick: it fell off the bus"),
        (State.WARNING, "its disk /var/lib/docker has 1.0 GiB left"),
        (State.FAILED, "its disk /srv does not answer"),
    ]
    [nvml] = texts(judged(reading(health=Health(HealthState.DRIVER_NOT_LOADED, words="the driver is not loaded"))))
    assert nvml == (State.FAILED, "no GPU there answers: the driver is not loaded")


def test_servers_that_should_be_alike_are_compared() -> None:
    def seen(name: str, driver: str) -> Result:
        return Result("agent", name, versions={"NVIDIA driver": driver})

    assert compare([seen("gpu01", "580.1")]) == []
    [same] = compare([seen("gpu01", "580.1"), seen("gpu02", "580.1")])
    assert (same.state, same.facts) == (State.OK, ("580.1 on 2 servers",))
    [differs] = compare([seen("gpu01", "580.1"), seen("gpu02", "570.9"), seen("gpu03", "580.1")])
    assert differs.state is State.WARNING
    assert differs.problems[0].text == "not all servers have the same NVIDIA driver: most have 580.1, gpu02 has 570.9"


def test_what_fails_on_a_drained_server_only_warns() -> None:
    failed = Result("engine", "gpu01", problems=(Problem(State.FAILED, "it is silent", "restart it"),))
    assert soften(failed, frozenset({"gpu02"})) == failed
    softened = soften(failed, frozenset({"gpu01"}))
    assert softened.state is State.WARNING
    assert softened.problems[0].text == "it is silent (the server is drained)"


# -- leases -----------------------------------------------------------------------------------------------------


def test_ledger_and_containers_contradict_each_other_in_these_ways() -> None:
    leases = [
        ("l1", "anna", "running", "c1", NOW - 100),
        ("l2", "bert", "running", "c2", NOW - 100),
        ("l3", "carl", "lost", "c3", NOW - 100),
        ("l4", "dora", "creating", None, NOW - 3600),
        ("l5", "emil", "creating", None, NOW - 10),
        ("l6", "fred", "stopping", "c6", NOW - 10),
    ]
    containers = {"c1": "l1", "c6": "l6", "c7" * 20: "l7"}
    wrong = tables.contradictions("gpu01", leases, containers, NOW)
    assert [(one.lease_id, one.words) for one in wrong] == [
        ("l2", "bert holds a GPU without a container (lease l2)"),
        ("l3", "the session of carl is lost: its GPU stays held until its container was seen gone"),
        ("l4", "the session of dora has been starting for 60 minutes"),
        ("l7", "the container c7c7c7c7c7c7 runs without a lease (l7)"),
    ]


# -- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "states"),
    [
        (f"idlhub_backup_last_success_timestamp_seconds {NOW - 3600}\n", []),
        (f'idlhub_backup_last_success_timestamp_seconds{{repository="a"}} {NOW - 2 * DAY}\n', [State.FAILED]),
        ("something_else 1\n", [State.FAILED]),
        ("nothing that Prometheus reads {\n", [State.FAILED]),
    ],
)
def test_backups_are_judged_by_what_their_timer_left(tmp_path: Path, content: str, states: list[State]) -> None:
    (tmp_path / "idl_hub_backup_run.prom").write_text(content)
    found = Found()
    files.look_at_backups(tmp_path, NOW, found)
    assert [problem.state for problem in found.problems] == states


def test_secrets_that_others_can_read_are_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    settings = Settings.model_validate({"hub": {"state_directory": str(tmp_path)}})
    (tmp_path / "web-token").write_text("secret")
    (tmp_path / "web-token").chmod(0o600)
    found = Found()
    files.look_at_files(settings, found)
    assert (found.problems, found.facts) == ([], ["1 secrets that only their owner reads"])

    (tmp_path / "web-token").chmod(0o640)
    tmp_path.chmod(0o755)
    found = Found()
    files.look_at_files(settings, found)
    assert [problem.advice.split(";")[0] for problem in found.problems] == [
        f"`chmod 600 {tmp_path}/web-token`",
        f"`chmod 700 {tmp_path}`",
    ]


# -- the whole ----------------------------------------------------------------------------------------------------


async def test_a_check_that_hangs_or_breaks_is_a_problem_of_its_own() -> None:
    async def hangs(_: Found) -> None:
        await asyncio.get_running_loop().create_future()

    async def breaks(_: Found) -> None:
        raise KeyError("x")

    hung = await run(Job("engine", "gpu01", hangs), 0.05)
    assert hung.problems[0].text == "no answer within 0 s"
    assert "systemctl restart docker" in hung.problems[0].advice
    broken = await run(Job("engine", "gpu01", breaks), 5)
    assert broken.problems[0].text == "the check itself failed: KeyError: 'x'"


RESULTS = [
    Result("hub", "hub", facts=("JupyterHub 6.1.1",), certificates={"hub.example.org": NOW}),
    Result("agent", "gpu01", problems=(Problem(State.WARNING, "a disk is full", "empty it", "server-disk-full.md"),)),
    Result("engine", "gpu02", problems=(Problem(State.FAILED, "it is silent", "restart it"),)),
]


def test_people_read_a_line_for_each_check_and_what_to_do() -> None:
    assert report.as_text(RESULTS, 1.25).splitlines() == [
        "ok       hub     hub    JupyterHub 6.1.1",
        "warning  agent   gpu01  a disk is full",
        "         -> empty it (docs/runbook/server-disk-full.md)",
        "FAILED   engine  gpu02  it is silent",
        "         -> restart it",
        "",
        "3 checks in 1.2 s: 1 failed, 1 with warnings.",
    ]
    assert "1 checks in 0.1 s: all is well." in report.as_text(RESULTS[:1], 0.1)


def test_programs_read_json_and_prometheus_its_own_form(tmp_path: Path) -> None:
    told = json.loads(report.as_json(RESULTS, 1.25, NOW))
    assert (told["version"], told["state"]) == (1, "failed")
    assert [check["state"] for check in told["checks"]] == ["ok", "warning", "failed"]
    assert told["checks"][1]["problems"][0]["page"] == "docs/runbook/server-disk-full.md"

    target = tmp_path / "doctor.prom"
    target.write_text("old")
    report.write(target, report.as_metrics(RESULTS, NOW))
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.prom"]
    assert target.stat().st_mode & 0o777 == 0o644
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(target.read_text())
        for sample in family.samples
    }
    assert samples["idlhub_doctor_check", "agent", "gpu01"] == 1
    assert samples["idlhub_doctor_warning", "agent", "gpu01"] == 1
    assert samples["idlhub_doctor_check", "engine", "gpu02"] == 0
    assert samples["idlhub_certificate_expiry_timestamp_seconds", "hub.example.org"] == NOW
    assert samples["idlhub_doctor_last_run_timestamp_seconds",] == NOW


def test_settings_that_cannot_be_used_are_the_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yml"
    file.write_text(yaml.safe_dump({"hub": {"public_port": "http"}}))
    monkeypatch.setenv("IDLHUB_SETTINGS", str(file))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("FAILED   settings  hub")
    assert "hub.public_port is 'http'" in said


def test_without_a_hub_it_still_ends_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yml"
    hub = {"state_directory": str(tmp_path), "public_port": 1, "internal_port": 2, "web_port": 3, "proxy_api_port": 4}
    file.write_text(yaml.safe_dump({"hub": hub, "spawner": {"kind": "process"}}))
    monkeypatch.setenv("IDLHUB_SETTINGS", str(file))
    assert main(["doctor", "--only", "hub", "--only", "database", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {(one["check"], one["target"], one["state"]) for one in told["checks"]} == {
        ("database", "idl_hub", "failed"),
        ("database", "jupyterhub", "failed"),
        ("hub", "hub", "failed"),
    }


def test_every_page_that_it_names_is_in_the_runbook_and_every_check_in_the_reference() -> None:
    named = set()
    for file in Path(doctor.__file__).parent.glob("*.py"):
        strings = (node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant))
        named |= {text for text in strings if isinstance(text, str) and text.endswith(".md") and os.sep not in text}
    assert named
    assert sorted(page for page in named if not (ROOT / "docs" / "runbook" / page).exists()) == []
    reference = (ROOT / "docs" / "reference" / "commands.md").read_text().split("### idl-hub doctor")[1]
    assert [check for check in CHECKS if f"| `{check}` |" not in reference] == []
