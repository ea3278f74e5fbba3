"""The supervisor starts proxy and hub, brings back what dies, and leaves no process."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from script.lib.console import Console, SetupError, Step
from script.lib.places import ROOT
from script.lib.supervisor import Service, Supervisor, answers, end_leftovers, rotate, started_ticks

WEB_SERVER = """
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
WITH_A_CHILD = (
    "import subprocess, sys, time; p = subprocess.Popen(['sleep', '300']); print(p.pid, flush=True); time.sleep(300)"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until(condition, what: str, deadline_seconds: float = 20) -> None:
    deadline = time.monotonic() + deadline_seconds
    while not condition():
        assert time.monotonic() < deadline, f"in {deadline_seconds} s it did not happen that {what}"
        time.sleep(0.05)


@pytest.fixture
def out():
    return io.StringIO()


@pytest.fixture
def supervisor(tmp_path, out):
    supervisor = Supervisor(Console(out), tmp_path / "server.json")
    yield supervisor
    supervisor.stop()


def service(tmp_path, program: str, *arguments: str) -> Service:
    return Service("hub", [sys.executable, "-c", program, *arguments], os.environ, tmp_path / "hub.log", tmp_path)


def test_a_service_is_ready_when_its_address_answers_and_is_on_record(tmp_path, supervisor):
    port = free_port()
    web = service(tmp_path, WEB_SERVER, str(port))

    supervisor.start(web, Step("Starting the hub"), f"http://127.0.0.1:{port}/", "", 20)

    record = json.loads((tmp_path / "server.json").read_text())
    assert answers(f"http://127.0.0.1:{port}/")
    assert [process["pid"] for process in record["processes"]] == [web.process.pid]


def test_a_service_that_ends_at_once_is_reported_with_its_last_lines(tmp_path, supervisor):
    broken = service(tmp_path, "raise SystemExit('settings.yml: gpus.simulated is -1')")

    with pytest.raises(SetupError) as failed:
        supervisor.start(broken, Step("Starting the hub"), f"http://127.0.0.1:{free_port()}/", "", 20)

    assert "ended at once" in failed.value.what
    assert "gpus.simulated is -1" in failed.value.detail
    assert str(broken.log) in failed.value.remedy


def test_a_service_that_never_answers_is_given_up_at_the_deadline(tmp_path, supervisor):
    mute = service(tmp_path, "import time; print('thinking', flush=True); time.sleep(300)")

    with pytest.raises(SetupError, match="did not answer at"):
        supervisor.start(mute, Step("Starting the hub"), f"http://127.0.0.1:{free_port()}/", "", 2)


def test_a_service_that_dies_is_started_again(tmp_path, supervisor, out):
    port = free_port()
    web = service(tmp_path, WEB_SERVER, str(port))
    supervisor.start(web, Step("Starting the hub"), f"http://127.0.0.1:{port}/", "", 20)
    killed = web.process.pid
    runner = threading.Thread(target=supervisor.run)
    runner.start()
    try:
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: web.is_running() and web.process.pid != killed, "the service runs again")
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), "the service answers again")
    finally:
        supervisor.stopping.set()
        runner.join()

    assert "ended unexpectedly (-9)" in out.getvalue()


def test_a_service_that_keeps_dying_is_given_up_with_its_last_lines(tmp_path, supervisor, out):
    broken = service(tmp_path, "raise SystemExit('the database is locked')")
    broken.quick_deaths = 4
    broken.start()
    supervisor._services.append(broken)

    assert supervisor.run() == 1
    assert "the database is locked" in out.getvalue()
    assert "FAILED" in out.getvalue()


def test_the_pause_before_a_start_doubles_with_each_quick_death(tmp_path):
    dying = service(tmp_path, "")
    pauses = []
    for _ in range(4):
        dying.started = time.monotonic()
        dying.note_death()
        pauses.append(round(dying.next_start - time.monotonic()))

    assert pauses == [1, 2, 4, 8]


def test_stopping_ends_a_service_and_the_processes_it_started(tmp_path, supervisor):
    parent = service(tmp_path, WITH_A_CHILD)
    parent.start()
    wait_until(lambda: parent.tail().strip().isdigit(), "the child's id is known")
    child = int(parent.tail())

    parent.stop()

    assert not parent.is_running()
    wait_until(lambda: started_ticks(child) is None, "the child is gone")


def test_a_service_that_ignores_the_request_to_end_is_killed(tmp_path):
    deaf = service(
        tmp_path,
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)",
    )
    deaf.start()
    wait_until(lambda: "deaf" in deaf.tail(), "the service ignores SIGTERM")

    deaf.stop(0.2)

    assert deaf.process.returncode == -signal.SIGKILL


def test_services_of_a_killed_supervisor_end_with_it(tmp_path):
    program = f"""
import os, sys, time
from pathlib import Path
from script.lib.supervisor import Service
folder = Path({str(tmp_path)!r})
one = Service("hub", [sys.executable, "-c", "import time; time.sleep(300)"], os.environ, folder / "log", folder)
one.start()
print(one.process.pid, flush=True)
time.sleep(300)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as killed:
        pid = int(killed.stdout.readline())
        assert started_ticks(pid) is not None
        killed.kill()

    wait_until(lambda: started_ticks(pid) is None, "the service is gone")


def test_leftovers_of_an_earlier_run_are_ended_but_never_a_stranger_with_the_same_id(tmp_path):
    record = tmp_path / "server.json"
    with subprocess.Popen(["sleep", "300"]) as leftover, subprocess.Popen(["sleep", "300"]) as stranger:
        try:
            known = [
                {"pid": leftover.pid, "started_ticks": started_ticks(leftover.pid)},
                {"pid": stranger.pid, "started_ticks": started_ticks(stranger.pid) - 1},
            ]
            record.write_text(json.dumps({"processes": known}))

            end_leftovers(record)

            assert leftover.wait(10) == -signal.SIGTERM
            assert stranger.poll() is None
            assert not record.exists()
        finally:
            leftover.kill()
            stranger.kill()


def test_three_older_logs_are_kept(tmp_path):
    log = tmp_path / "hub.log"
    for run in range(6):
        rotate(log)
        log.write_text(f"run {run}")

    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["run 5", "run 4", "run 3", "run 2"]
