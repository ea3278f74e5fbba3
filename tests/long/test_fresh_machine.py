"""script/server on machines that have nothing but git and Python.

Debian 12 and 13 are made from Debian's own packages. Ubuntu 24.04 cannot be made here and is not tested.
"""

import random
import re
import time

import pytest
from long.fresh_machines import CHECKOUT, Machine, make_debian, wait_for_line

FIRST_START_SECONDS = 1500
SECOND_START_SECONDS = 15
STEPS = ["Docker engine", "Python packages", "Proxy", "GPUs", "Student image", "Starting the hub"]
READY = "    Password   "

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    """Return an image of a Debian release by its name, made once."""
    made = {}

    def image(suite: str) -> str:
        if suite not in made:
            made[suite] = make_debian(suite, tmp_path_factory.mktemp(suite))
        return made[suite]

    return image


@pytest.fixture(
    params=[
        ("bookworm", "tester", "systemd"),
        ("trixie", "tester", "systemd"),
        ("trixie", "root", "no systemd"),
    ],
    ids=" ".join,
)
def machine(request, debian):
    suite, user, first_process = request.param
    machine = Machine.start(debian(suite), user, first_process)
    yield machine
    machine.remove()


def stop(machine: Machine, server) -> None:
    """Ask script/server to end, as Ctrl-C does, and see that it leaves no process."""
    machine.root(f"kill -INT {machine.record()['pid']}")
    assert server.wait(60) == 0
    assert machine.processes() == []


def test_a_fresh_machine_serves_after_one_command_even_when_it_was_killed_on_the_way(machine, tmp_path):
    step = random.choice(STEPS)
    print(f"killed after the step: {step}")
    killed = machine.start_server(tmp_path / "killed.log")
    wait_for_line(tmp_path / "killed.log", [f"[ ok ] {step}"], killed, FIRST_START_SECONDS)
    assert "none can run here" not in (tmp_path / "killed.log").read_text()
    machine.kill_set_up()
    killed.wait(60)

    first = machine.start_server(tmp_path / "first.log")
    wait_for_line(tmp_path / "first.log", [READY], first, FIRST_START_SECONDS)
    text = (tmp_path / "first.log").read_text()
    assert "Open       http://localhost:8000" in text
    assert re.search(r"Log in as {2}lecturer, assistant, student1 \.\.\. student5", text)
    assert machine.record()["spawner"] == "docker"
    stop(machine, first)

    started = time.monotonic()
    second = machine.start_server(tmp_path / "second.log")
    wait_for_line(tmp_path / "second.log", [READY], second, 120)
    assert time.monotonic() - started < SECOND_START_SECONDS
    stop(machine, second)

    password = machine.root(f"cat {CHECKOUT}/.state/demo-password").strip()
    assert password in text
    assert password in (tmp_path / "second.log").read_text()
