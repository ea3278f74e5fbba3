"""The command idl-hub on the hub's machine, with a stand-in for the engine's command that notes what it is given."""

import json
import os
import shlex
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pytest

TEMPLATE = Path(__file__).resolve().parents[2] / "ansible" / "roles" / "hub" / "templates" / "idl-hub.j2"
DOCKER = """\
#!/usr/bin/env python3
import json, os, pathlib, sys
if sys.argv[1:3] == ["container", "inspect"]:
    running = os.environ.get("RUNNING", "")
    print(running)
    sys.exit(0 if running else 1)
pathlib.Path(os.environ["NOTES"]).write_text(json.dumps([sys.argv[1:], sys.stdin.read()]))
sys.exit(int(os.environ.get("STATUS", "0")))
"""
VALUES = {
    "ansible_managed": "by a test",
    "hub_capabilities": ["CHOWN", "KILL"],
    "hub_environment": {"TZ": "Europe/Berlin", "PGUSER": "idl_hub"},
    "hub_command_mounts": ["/var/lib/idl_hub:/var/lib/idl_hub", "/srv/with space:/srv/with space:rslave"],
    "hub_image": "idl-hub/hub:latest",
}


@dataclass(frozen=True)
class Ran:
    """What the engine's command was given, and how the command ended."""

    options: list[str]
    image: str
    words: list[str]
    read: str
    status: int


@pytest.fixture
def command(tmp_path: Path) -> Path:
    templates = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    templates.filters["quote"] = shlex.quote
    file = tmp_path / "idl-hub"
    file.write_text(templates.from_string(TEMPLATE.read_text()).render(VALUES))
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    for program in (file, docker):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return file


def run(command: Path, *words: str, given: str = "", **environment: str) -> Ran:
    notes = command.with_name("notes.json")
    env = {name: os.environ[name] for name in ("LANG", "HOME") if name in os.environ}
    env |= {"PATH": f"{command.parent / 'bin'}:{os.environ['PATH']}", "NOTES": str(notes), **environment}
    done = subprocess.run([command, *words], input=given, env=env, text=True, timeout=30)
    called, read = json.loads(notes.read_text())
    assert called[0] == "run"
    at = called.index("idl-hub")
    return Ran(called[1 : at - 1], called[at - 1], called[at + 1 :], read, done.returncode)


def test_arguments_input_and_status_pass_as_they_are(command: Path) -> None:
    words = ["gpus", "--json", "", "two words", "a'quote", '"', "$HOME", "*", "-x"]
    ran = run(command, *words, given="one\ntwo", STATUS="7")

    assert ran.words == words
    assert ran.read == "one\ntwo"
    assert ran.status == 7
    assert "--interactive" in ran.options
    assert "--tty" not in ran.options, "there is no terminal here"


def test_it_has_what_the_hub_has_and_no_other_right(command: Path) -> None:
    ran = run(command, "gpus")

    for option in ("--rm", "--network=host", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true"):
        assert option in ran.options
    assert [option for option in ran.options if "cap-add" in option] == ["--cap-add=CHOWN", "--cap-add=KILL"]
    assert "--volume=/srv/with space:/srv/with space:rslave" in ran.options
    assert "--env=PGUSER=idl_hub" in ran.options


def test_the_version_that_the_hub_runs_is_taken_else_the_one_it_would_run(command: Path) -> None:
    assert run(command, "gpus", RUNNING="sha256:abc").image == "sha256:abc"
    assert run(command, "gpus").image == "idl-hub/hub:latest"


@pytest.mark.parametrize(
    ("words", "handed"),
    [
        (["images", "publish"], True),
        (["images", "rollout"], False),
        (["publish"], False),
        (["gpus"], False),
        ([], False),
    ],
)
def test_the_machines_engine_is_handed_to_publishing_alone(command: Path, words: list[str], handed: bool) -> None:
    assert any("docker.sock" in option for option in run(command, *words).options) is handed


def test_who_asks_is_the_person_behind_sudo(command: Path) -> None:
    assert "--env=LOGNAME=ada" in run(command, "drain", "gpu01", SUDO_USER="ada", LOGNAME="root").options
    assert "--env=LOGNAME=root" in run(command, "drain", "gpu01").options
