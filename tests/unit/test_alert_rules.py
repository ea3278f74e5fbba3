"""Alerts: each is raised when it should be and not when it should not, and leads to a page that helps."""

from __future__ import annotations

import re
import shutil
import subprocess
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from script.lib.places import Places

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "ansible" / "roles" / "monitoring"
RUNBOOK = ROOT / "docs" / "runbook"
CASES = sorted((Path(__file__).parent / "alerts").glob("*.yml"))
SEVERITIES = {"critical", "warning", "info"}


def variables() -> dict[str, Any]:
    defaults: dict[str, Any] = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    return defaults | {"monitoring_runbook_base": "https://pages.test/runbook", "monitoring_backup": True}


@cache
def rendered() -> dict[str, dict[str, Any]]:
    """Return the files of rules as the role writes them, with the default of every variable."""
    environment = jinja2.Environment(
        variable_start_string="[[", variable_end_string="]]", undefined=jinja2.StrictUndefined, autoescape=False
    )
    values = variables()
    files = sorted((ROLE / "files" / "rules").glob("*.yml"))
    return {file.name: yaml.safe_load(environment.from_string(file.read_text()).render(values)) for file in files}


@cache
def alerts() -> dict[str, dict[str, Any]]:
    found = [rule for file in rendered().values() for group in file["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in found]
    assert len(set(names)) == len(names), "an alert is there twice"
    return {rule["alert"]: rule for rule in found}


@cache
def cases() -> list[dict[str, Any]]:
    # All values are text: 0x5 is promtool's way to say "0, and five times the same".
    return [case for file in CASES for case in yaml.load(file.read_text(), yaml.BaseLoader)]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool") or Places(ROOT, ROOT / ".state").prometheus / "usr" / "bin" / "promtool"
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)


def try_of(case: dict[str, Any], when: str) -> dict[str, Any]:
    """Return a test as promtool reads it; of what an alert says, its summary is compared."""
    tried, rule = case[when], alerts()[case["alert"]]
    expected = []
    if when == "fires":
        labels = tried["labels"] | {"severity": rule["labels"]["severity"]}
        expected = [{"exp_labels": labels, "exp_annotations": {"summary": tried["summary"]}}]
    return {
        "name": f"{case['alert']} {when}",
        "interval": case.get("every", "1m"),
        "input_series": [{"series": series, "values": values} for series, values in tried["series"].items()],
        "alert_rule_test": [{"eval_time": tried["at"], "alertname": case["alert"], "exp_alerts": expected}],
    }


def test_the_rules_are_ones_that_prometheus_takes(tmp_path: Path) -> None:
    for name, content in rendered().items():
        (tmp_path / name).write_text(yaml.safe_dump(content))
    checked = promtool("check", "rules", *sorted(tmp_path.iterdir()))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_case_in_which_it_is_raised_and_one_in_which_it_is_not() -> None:
    assert {case["alert"] for case in cases()} == alerts().keys()
    assert all({"fires", "silent"} <= case.keys() for case in cases())


def test_alerts_are_raised_when_they_should_be_and_not_when_they_should_not(tmp_path: Path) -> None:
    for name, content in deepcopy(rendered()).items():
        for group in content["groups"]:
            for rule in group["rules"]:
                rule["annotations"] = {"summary": rule["annotations"]["summary"]}
        (tmp_path / name).write_text(yaml.safe_dump(content))
    tables = []
    for every in {case.get("every", "1m") for case in cases()}:
        tests = [try_of(case, when) for case in cases() for when in ("fires", "silent")]
        tests = [test for test in tests if test["interval"] == every]
        tables.append(tmp_path / f"every-{every}")
        table = {"rule_files": sorted(rendered()), "evaluation_interval": every, "tests": tests}
        tables[-1].write_text(yaml.safe_dump(table))
    tried = promtool("test", "rules", *tables)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_every_alert_says_how_bad_it_is_what_happened_and_where_to_read_on() -> None:
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in SEVERITIES, name
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["summary"].endswith("."), name
        assert rule["annotations"]["description"].endswith((".", "?")), name


@pytest.mark.parametrize("name", sorted(alerts()))
def test_the_page_of_an_alert_is_in_the_runbook_under_a_symptom(name: str) -> None:
    url = alerts()[name]["annotations"]["runbook_url"]
    page = RUNBOOK / url.removeprefix("https://pages.test/runbook/")
    text = page.read_text()
    title = text.splitlines()[0].removeprefix("# ")
    assert title != name, "what an admin sees has another name than the alert"
    assert not re.match(r"(?i)(runbook|how to)", title)
    assert re.search(r"^(1\.|-) ", text, re.MULTILINE), "a page says what to do, step by step"
    assert f"`{name}`" in text, "who comes from the alert should see that this is the page"
    assert f"]({page.name})" in (RUNBOOK / "README.md").read_text()
