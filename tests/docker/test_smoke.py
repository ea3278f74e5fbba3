"""``idl-hub smoke`` with a real hub, a real proxy and the real student image; and that nothing of it stays."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from hubs import Hub, docker, wait_for
from students import Student

from idl_hub.db import Database
from idl_hub.db.accounts import SMOKE_TEST
from idl_hub.db.commands import Commands
from idl_hub.people import SMOKER
from idl_hub.settings import Settings
from idl_hub.smoke.traces import Traces

pytestmark = pytest.mark.timeout(300)
SECONDS = 120


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("smoke")
    homes = folder / "homes"
    homes.mkdir()
    (homes / ".idl_hub-homes").touch()
    with Hub(folder / "hub", gpus=1, students=2, settings={"homes": {"directory": str(homes)}}) as hub:
        yield hub
        print(hub.log_tail())


def smoke(hub: Hub, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # As at a terminal: what runs in the background of a script is started deaf to Ctrl-C.
        ["env", "--default-signal=INT", sys.executable, "-m", "idl_hub.cli", "smoke", *arguments],
        env=os.environ | {"IDLHUB_SETTINGS": str(hub.folder / "settings.yml")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def at_the_shell(hub: Hub, *words: str) -> int:
    environment = os.environ | {"IDLHUB_SETTINGS": str(hub.folder / "settings.yml")}
    return subprocess.run([sys.executable, "-m", "idl_hub.cli", *words], env=environment, timeout=30).returncode


def ended(run: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = run.communicate(timeout=SECONDS)
    return run.returncode, said


def traces(hub: Hub) -> str:
    """Return in words what is left of a test; empty when nothing is."""
    homes = hub.folder.parent / "homes"
    users = [user["name"] for user in hub.api("GET", "/users").json()]
    left = [hub.leftovers(), *[name for name in users if name == SMOKE_TEST]]
    routes = hub.api("GET", "/proxy").json()
    left += [route for route in routes if SMOKE_TEST in route]
    left += [entry.name for entry in homes.iterdir() if SMOKE_TEST in entry.name]
    return ", ".join(filter(None, left))


def test_a_student_of_a_minute_trains_on_the_leased_gpu_and_leaves_nothing(hub: Hub) -> None:
    code, said = ended(smoke(hub))
    print(said)
    assert code == 0, said + hub.log_tail()
    [uuid] = [gpu.uuid for gpu in hub.simulator.gpus()]
    assert f"the container sees {uuid} and no other" in said
    assert "trained on the processor (the GPU is simulated)" in said
    assert "a file was saved, and is there on the hub's machine" in said
    assert traces(hub) == ""
    # What stays is the record.
    [lease] = [lease for lease in hub.leases() if lease.user == SMOKE_TEST]
    assert lease.gpu_uuids == (uuid,)
    assert not lease.live


def test_one_that_is_interrupted_tidies_up_and_one_that_is_killed_is_tidied_up_by_the_next(hub: Hub) -> None:
    run = smoke(hub, "--no-train")
    wait_for(lambda: hub.containers(running=True), "the test's container", 60)
    run.send_signal(signal.SIGINT)
    code, said = ended(run)
    assert (code, traces(hub)) == (130, ""), said
    assert "interrupted" in said

    run = smoke(hub, "--no-train")
    wait_for(lambda: hub.containers(running=True), "the test's container", 60)
    run.kill()
    run.communicate(timeout=30)
    assert SMOKE_TEST in traces(hub)
    code, said = ended(smoke(hub, "--no-train"))
    assert (code, traces(hub)) == (0, ""), said
    assert "removed what an interrupted test had left" in said


def test_it_takes_no_gpu_that_a_student_could_have(hub: Hub) -> None:
    holder, waiting = Student(hub, "student1").started(), Student(hub, "student2")
    code, said = ended(smoke(hub, "--no-train"))
    assert code == 3, said
    assert "All GPUs are taken." in said
    assert hub.rows("select count(*) from ticket where ended_at is null") == [(0,)]

    assert "number 1 in line" in waiting.start()["message"]
    code, said = ended(smoke(hub, "--no-train"))
    assert code == 3, said
    assert "1 student waits for a GPU" in said
    [(ticket,)] = hub.rows("select id from ticket where ended_at is null")
    with closing(Database(f"sqlite:///{hub.database}")) as database:
        Commands(database).ask_and_wait("leave_line", {"ticket_id": ticket}, "tests", 20)
    holder.stop()
    wait_for(lambda: not hub.leftovers(), "the student's server to be gone")


def test_its_token_can_do_nothing_to_anybody_else(hub: Hub) -> None:
    token = (hub.folder / "state" / f"{SMOKER}-token").read_text().strip()

    def ask(method: str, path: str, body: object = None) -> int:
        answer = requests.request(
            method, f"{hub.url}{path}", json=body, headers={"Authorization": f"token {token}"}, timeout=10
        )
        return answer.status_code

    forbidden = [
        ask(method, f"/hub/api{path}", body)
        for method, path, body in (
            ("GET", "/users/student1", None),
            ("POST", "/users/somebody", None),
            ("POST", "/users", {"usernames": ["somebody"]}),
            ("PATCH", "/users/student1", {"name": "somebody"}),
            ("DELETE", "/users/student1", None),
            ("POST", "/users/student1/server", {"user_options": {"gpu": "none"}}),
            ("DELETE", "/users/student1/server", None),
            ("POST", "/users/student1/tokens", {}),
            ("POST", f"/users/{SMOKE_TEST}/tokens", {}),
            ("GET", "/groups", None),
            ("POST", "/groups/admins/users", {"users": [SMOKE_TEST]}),
            ("GET", "/proxy", None),
            ("POST", "/shutdown", {}),
            ("GET", "/services", None),
        )
    ]
    assert set(forbidden) <= {403, 404}, forbidden
    assert ask("GET", "/user/student1/api/contents") in (403, 404)
    assert ask("POST", f"/hub/api/users/{SMOKE_TEST}", {"admin": True}) == 403
    assert ask("POST", f"/hub/api/users/{SMOKE_TEST}") == 201
    assert ask("PATCH", f"/hub/api/users/{SMOKE_TEST}", {"admin": True}) == 403
    assert ask("DELETE", f"/hub/api/users/{SMOKE_TEST}") == 204


def test_a_drained_server_can_be_tried_and_gets_nobody_else(hub: Hub) -> None:
    name = "this machine"
    assert at_the_shell(hub, "drain", name) == 0
    try:
        code, said = ended(smoke(hub, "--no-train"))
        assert code == 3, said
        code, said = ended(smoke(hub, "--no-train", "--server", name))
        assert code == 0, said
        assert f"ready on {name}, GPU 0" in said
    finally:
        assert at_the_shell(hub, "undrain", name) == 0
    assert traces(hub) == ""


def test_a_home_that_is_a_docker_volume_is_removed_as_well(hub: Hub, tmp_path: Path) -> None:
    volume = f"{hub.volume_prefix}{SMOKE_TEST}"
    docker("volume", "create", volume)
    settings = Settings.model_validate(
        {"hub": {"state_directory": str(tmp_path)}, "spawner": {"home_volume": hub.volume_prefix + "{username}"}}
    )
    with closing(Traces(settings)) as left:
        asyncio.run(left.remove_home())
        assert docker("volume", "ls", "-q", "--filter", f"name={volume}") == ""
        asyncio.run(left.remove_home())  # gone already is fine
