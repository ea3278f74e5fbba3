"""Each failure of the set-up names its cause and the remedy."""

import io
import os
import shutil
import socket
import sys
import time
from collections import namedtuple

import pytest

from script.lib import containers, engine, environments, ports
from script.lib.commands import CommandFailedError, explain, run
from script.lib.console import Console, SetupError, Step
from script.lib.places import ROOT, prepare
from script.lib.server import parse

Usage = namedtuple("Usage", "total used free")


def failure_of(tmp_path, program: str) -> SetupError:
    """Run a small Python program that fails and return what a person is told."""
    log = tmp_path / "log"
    with pytest.raises(CommandFailedError) as failed:
        run(Step("step"), [sys.executable, "-c", program], log, deadline_seconds=20)
    return explain("The packages could not be installed", failed.value, log, "Remove .venv.")


def test_a_port_that_is_taken_is_reported_with_who_has_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError) as refused:
            ports.require_free("127.0.0.1", port, "the hub's pages", "Choose another with --port.", 0)

    assert str(port) in refused.value.what
    assert f"process {os.getpid()} (" in refused.value.what
    assert "--port" in refused.value.remedy


def test_a_port_that_comes_free_in_time_is_used():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    ports.require_free("127.0.0.1", port, "the hub's pages", "Choose another.", 0)


def test_an_address_this_machine_does_not_have_is_reported():
    with pytest.raises(SetupError, match="192\\.0\\.2\\.1"):
        ports.require_free("192.0.2.1", 8081, "the hub's API", "Choose another.", 0)


@pytest.mark.parametrize(
    ("printed", "cause"),
    [
        ("OSError: [Errno 28] No space left on device", "no disk space"),
        ("E: Failed to fetch packages  Could not resolve 'mirror'", "a download failed"),
        ("npm error code ENOTFOUND", "a download failed"),
    ],
)
def test_a_failed_program_is_reported_with_its_cause_and_last_lines(tmp_path, printed, cause):
    error = failure_of(tmp_path, f"print({printed!r}); raise SystemExit(1)")

    assert cause in error.what
    assert printed in error.text()
    assert "continues" in error.remedy


def test_a_program_that_fails_for_another_reason_is_reported_with_its_log(tmp_path):
    error = failure_of(tmp_path, "print('something odd'); raise SystemExit(3)")

    assert "ended with 3" in error.what
    assert "Remove .venv." in error.remedy
    assert str(tmp_path / "log") in error.remedy


def test_a_program_that_hangs_is_ended_at_its_deadline(tmp_path):
    started = time.monotonic()
    with pytest.raises(CommandFailedError, match="did not end within 1 s"):
        run(
            Step("step"),
            [sys.executable, "-c", "import time; time.sleep(60)"],
            tmp_path / "log",
            deadline_seconds=1,
        )

    assert time.monotonic() - started < 20


def test_a_program_that_is_missing_is_reported_like_one_that_fails(tmp_path):
    with pytest.raises(CommandFailedError, match="could not be started: No such file"):
        run(Step("step"), ["/no/such/program"], tmp_path / "log", deadline_seconds=5)


def test_too_little_disk_for_the_packages_is_found_before_they_are_downloaded(tmp_path, monkeypatch):
    places = prepare(ROOT, tmp_path / "state")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 10**8))

    with pytest.raises(SetupError, match=r"Only 0\.1 GB are free"):
        environments._ensure_environment(
            Step("step"), places, tmp_path / "venv", sys.executable, [places.requirements / "hub.txt"], "hub"
        )


def test_an_engine_that_was_named_by_hand_and_is_silent_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")

    with pytest.raises(SetupError) as refused:
        engine.ensure_engine(Step("step"), prepare(tmp_path, None))

    assert "tcp://127.0.0.1:1" in refused.value.what
    assert "DOCKER_HOST" in refused.value.remedy


def test_the_gateway_is_the_first_address_where_the_engine_does_not_name_it():
    network = {"Name": "idlhub", "IPAM": {"Config": [{"Subnet": "fd00::/64"}, {"Subnet": "172.20.0.0/16"}]}}

    assert containers.gateway_of(network) == "172.20.0.1"


@pytest.mark.parametrize("wrong", [["--gpus", "0"], ["--gpus", "many"], ["--port", "80"], ["--demo-students", "-1"]])
def test_impossible_options_are_refused_with_what_is_allowed(wrong, capsys):
    with pytest.raises(SystemExit) as refused:
        parse(wrong)

    assert refused.value.code == 2
    assert "is not a number from" in capsys.readouterr().err


def test_a_step_that_fails_is_shown_as_failed_with_its_time():
    out = io.StringIO()
    console = Console(out)

    with pytest.raises(SetupError), console.step("Proxy"):
        raise SetupError("The proxy is gone.", "Look for it.")

    assert out.getvalue().startswith("[FAIL] Proxy")
    assert out.getvalue().rstrip().endswith("s")
