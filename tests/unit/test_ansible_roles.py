"""Roles and plays of the deployment, and what is written about them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ANSIBLE = ROOT / "ansible"
ROLES = sorted(path.name for path in (ANSIBLE / "roles").iterdir() if path.is_dir())
PLAYS = sorted(path.name for path in ANSIBLE.glob("*.yml"))
PAGE = (ROOT / "docs" / "reference" / "ansible.md").read_text(encoding="utf-8")
TABLE = re.compile(r"^\| variable \| meaning \| default \|\n(?:\|.*\n)+", re.MULTILINE)
ROW = re.compile(r"^\| `(?P<name>[a-z0-9_]+)` \| (?P<meaning>.+?) \| (?P<default>.+?) \|$", re.MULTILINE)
LITERAL = re.compile(r"`([^`]*)`")


@dataclass(frozen=True)
class Role:
    """What a role says about its variables, in three places."""

    name: str
    defaults: dict[str, Any]
    options: dict[str, dict[str, Any]]
    rows: dict[str, tuple[str, str]]
    """Of the README: meaning and default."""


def role(name: str) -> Role:
    folder = ANSIBLE / "roles" / name
    specs = read(folder / "meta" / "argument_specs.yml")["argument_specs"]
    options = {key: option for entry in specs.values() for key, option in entry.get("options", {}).items()}
    tables = TABLE.findall((folder / "README.md").read_text(encoding="utf-8"))
    rows = {row["name"]: (row["meaning"], row["default"]) for table in tables for row in ROW.finditer(table)}
    return Role(name, read(folder / "defaults" / "main.yml") or {}, options, rows)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def computed(value: object) -> bool:
    """Whether a default follows from other variables."""
    return "{{" in str(value) or "{%" in str(value)


def test_there_are_roles_and_plays() -> None:
    assert {"fleet", "docker", "pki", "hub"} <= set(ROLES)
    assert {"site.yml", "upgrade.yml"} <= set(PLAYS)


@pytest.mark.parametrize("name", ROLES)
def test_every_role_says_what_it_is_and_what_it_may_be_told(name: str) -> None:
    folder = ANSIBLE / "roles" / name

    for file in ("README.md", "meta/main.yml", "meta/argument_specs.yml", "defaults/main.yml", "tasks/main.yml"):
        assert (folder / file).is_file(), f"role {name} has no {file}"
    assert f"# {name}\n" in (folder / "README.md").read_text(encoding="utf-8")
    wanted = [] if name == "fleet" else [{"role": "fleet"}]
    assert read(folder / "meta" / "main.yml")["dependencies"] == wanted


@pytest.mark.parametrize("name", ROLES)
def test_variables_of_a_role_carry_its_name(name: str) -> None:
    described = role(name)

    assert [key for key in (*described.defaults, *described.options) if not key.startswith(f"{name}_")] == []


@pytest.mark.parametrize("name", ROLES)
def test_defaults_specification_and_readme_of_a_role_name_the_same_variables(name: str) -> None:
    described = role(name)

    assert set(described.options) == set(described.rows), "argument_specs and README"
    assert set(described.defaults) <= set(described.options), "defaults without a specification"
    without = {key: described.options[key] for key in set(described.options) - set(described.defaults)}
    assert [key for key, option in without.items() if "default" in option] == [], "a default that is nowhere set"


@pytest.mark.parametrize("name", ROLES)
def test_defaults_specification_and_readme_of_a_role_give_the_same_defaults(name: str) -> None:
    described = role(name)

    for key, value in described.defaults.items():
        specified = described.options[key].get("default", value)
        assert specified == value or computed(value), f"{key}: argument_specs say {specified!r}"
        shown = described.rows[key][1]
        literal = LITERAL.fullmatch(shown)
        if literal is None:
            assert computed(value) or not isinstance(value, bool | int), f"{key}: README says {shown}"
        elif not computed(value):
            assert yaml.safe_load(literal[1] or "''") == value or literal[1] == str(value), (
                f"{key}: README says {shown}"
            )


@pytest.mark.parametrize("name", ROLES)
def test_every_variable_has_a_type_and_words(name: str) -> None:
    options = role(name).options

    assert [key for key, option in options.items() if not option.get("description") or not option.get("type")] == []


def test_every_variable_of_the_example_exists_in_a_role() -> None:
    known = {key for name in ROLES for key in role(name).options}
    example = ANSIBLE / "example"
    files = sorted(example.rglob("*.yml"))
    used = {key for path in files if path.name != "hosts.yml" for key in read(path) or {}}
    used |= set(host_variables(read(example / "hosts.yml")["all"]))

    assert len(files) > 1
    assert {key for key in used if not key.startswith("ansible_")} <= known


def host_variables(group: dict[str, Any]) -> list[str]:
    """Return the names of all variables that an inventory's group sets for its hosts."""
    found = list(group.get("vars") or {})
    for variables in (group.get("hosts") or {}).values():
        found += variables or {}
    for child in (group.get("children") or {}).values():
        found += host_variables(child or {})
    return found


def test_the_reference_names_every_play_and_every_role() -> None:
    plays = re.findall(r"^\| `([a-z-]+\.yml)` \|", PAGE.partition("\n## ")[0], flags=re.MULTILINE)
    roles = re.findall(r"^\| \[([a-z_]+)\]\(\.\./\.\./ansible/roles/\1/README\.md\) \|", PAGE, flags=re.MULTILINE)

    assert sorted(plays) == PLAYS
    assert sorted(roles) == ROLES


@pytest.mark.parametrize("play", PLAYS)
def test_every_play_says_in_its_first_line_what_it_is_for(play: str) -> None:
    first = (ANSIBLE / play).read_text(encoding="utf-8").splitlines()[0]

    assert re.match(r"# \S", first), f"{play} begins with: {first}"
