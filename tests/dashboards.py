"""Which metrics the dashboards and the alert rules of the role monitoring ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROLE = Path(__file__).resolve().parents[1] / "ansible" / "roles" / "monitoring"
DASHBOARDS = sorted((ROLE / "files" / "dashboards").glob("*.json"))
RULES = sorted((ROLE / "files" / "rules").glob("*.yml"))
_NOT_A_NAME = re.compile(
    r"""
    "(?:[^"\\]|\\.)*"                                    # text
    | \{[^}]*\}                                          # labels that are asked for
    | \[\[.*?\]\] | \[[^\]]*\]                           # what the role fills in; a range of time
    | \b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)   # lists of labels
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\b(?!\s*\()")
_WORDS = {"and", "or", "unless", "bool", "offset"}


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics in a query of Prometheus."""
    bare = _NOT_A_NAME.sub(" ", _NOT_A_NAME.sub(" ", expression))
    # Numbers may have letters: 1e9, 5m.
    return {name for name in _NAME.findall(re.sub(r"\b\d\w*", " ", bare)) if name not in _WORDS}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what shows something; rows only part the others."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def queries_of(board: dict[str, Any]) -> Iterator[str]:
    """Yield every query of a dashboard: of its panels, variables and annotations."""
    for panel in panels(board):
        yield from (target["expr"] for target in panel["targets"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"].removeprefix("label_values(").partition(",")[0]
    yield from (annotation["expr"] for annotation in board["annotations"]["list"])


def queries_of_rules(file: Path) -> Iterator[str]:
    """Yield the condition of every alert in a file."""
    for group in yaml.safe_load(file.read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def asked_for() -> dict[str, set[str]]:
    """Return every metric that is asked for, each with the files that do."""
    found: dict[str, set[str]] = {}
    for file in DASHBOARDS:
        for query in queries_of(json.loads(file.read_text())):
            for name in metrics_of(query):
                found.setdefault(name, set()).add(file.name)
    for file in RULES:
        for query in queries_of_rules(file):
            for name in metrics_of(query):
                found.setdefault(name, set()).add(file.name)
    return found
