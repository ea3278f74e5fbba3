"""The commands for an admin at the shell."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import threading
import time
from contextlib import closing
from datetime import datetime

import pytest
from parts import opened, sqlite_url

from idl_hub.cli import main
from idl_hub.db import Reader
from idl_hub.db.accounts import Accounts
from idl_hub.db.commands import DONE, REFUSED, Answer, Commands
from idl_hub.db.events import Events
from idl_hub.db.tables import LeaseGPURow, LeaseRow, OutOfServiceRow, TicketRow
from idl_hub.gpus.members import Member, write_members
from idl_hub.shell.usage import Usage, usage
from idl_hub.shell.why import story

pytest_plugins = ["simulated_gpus"]
HOUR = 3600.0
T = 1_700_000_000.0


def held(name, user, begin, end, *, measured=0.0, busy=0.0, gpus=1, **more):
    """Return a session's row; `end` None: it still runs."""
    values = {"kind": "session", "server": "gpu05", "server_name": "", "reason": "best of 6 free ones"}
    values |= {"phase": "running" if end is None else "ended", "container_id": "abcdef0123456789"}
    row = LeaseRow(id=name, user=user, reserved_at=begin, ended_at=end, **(values | more))
    row.gpus = [
        LeaseGPURow(
            gpu_uuid=f"GPU-{name}-{index}", gpu_index=index, gpu_name="GTX", slot=0, released_at=end,
            measured_seconds=measured, busy_seconds=busy,
        )
        for index in range(gpus)
    ]  # fmt: skip
    return row


def add(database, *rows):
    database.transact(lambda session: session.add_all(rows))


def test_usage_counts_gpu_hours_and_measured_load_of_each_person(database):
    add(
        database,
        held("a", "ada", T, T + 2 * HOUR, measured=HOUR, busy=HOUR / 2),
        held("b", "ada", T + 3 * HOUR, T + 4 * HOUR, measured=HOUR, busy=HOUR),
        held("c", "bob", T, T + HOUR, gpus=2),
        held("d", "carl", T, T + HOUR, gpus=0),
    )
    with closing(Reader(database.url.render_as_string(hide_password=False))) as reader:
        found = reader.look(usage(T - 1, T + 10 * HOUR))
    assert found == (
        Usage("ada", 2, 3.0, 2.0, 0.75),
        Usage("bob", 1, 2.0, 0.0, None),
    )


def test_usage_counts_only_the_part_of_a_session_that_lies_between_the_two_moments(database):
    add(
        database,
        held("a", "ada", T - HOUR, T + HOUR, measured=2 * HOUR, busy=HOUR),
        held("b", "bob", T + HOUR, None),
        held("c", "carl", T - 2 * HOUR, T - HOUR),
        held("d", "dora", T + 5 * HOUR, None),
    )
    with closing(Reader(database.url.render_as_string(hide_password=False))) as reader:
        found = reader.look(usage(T, T + 4 * HOUR))
    assert found == (Usage("bob", 1, 3.0, 0.0, None), Usage("ada", 1, 1.0, 1.0, 0.5))


async def test_a_persons_story_has_login_ticket_lease_container_error_and_what_to_do(database):
    account = await Accounts(database).of_login("demo", "ada")
    now = time.time()
    add(
        database,
        TicketRow(
            id="t1", user="ada", server_name="", gpu_count=1, options="{}", state="opened", created_at=now + 10,
            place=now + 10, offered_at=now + 20, ready_at=now + 30, ended_at=now + 40, ending="opened", attempts=0,
        ),
        held("l1", "ada", now + 20, now + 50, ready_at=now + 30, ending="stopped"),
        OutOfServiceRow(kind="server", target="gpu05", reason="new disk", by="root", since=now + 45),
    )  # fmt: skip
    await Events(database, lambda: now).note("login", "logged in (demo)", user="ada")
    await Events(database, lambda: now + 60).note("error", "gpu05 could not start the container", user="ada")

    told = database.transact(lambda session: story(session, account.name, 0, now + 70))

    assert [step.at for step in told.steps] == sorted(step.at for step in told.steps)
    assert {step.kind for step in told.steps} == {"login", "ticket", "lease", "start", "admin", "stop", "error"}
    words = "\n".join(step.text for step in told.steps)
    for part in (
        "logged in",
        "joined the line",
        "GPU 0 of gpu05 reserved: best of 6 free ones",
        "the server is ready in abcdef012345",
        "gpu05 out of service: new disk (root)",
        "given back: stopped",
        "gpu05 could not start the container",
    ):
        assert part in words
    assert told.now[0] == "ada has no session and no place in the line."
    assert "gpu05 could not start the container" in told.now[1]


@pytest.mark.parametrize(
    ("phase", "words"),
    [("running", "Nothing to do"), ("lost", "does not answer"), ("creating", "is starting"), ("stopping", "stopped")],
)
def test_the_story_ends_with_how_a_session_stands(database, phase, words):
    add(database, held("l1", "ada", T, None, phase=phase))
    (now,) = database.transact(lambda session: story(session, "ada", 0, T + 60)).now
    assert words in now
    assert "GPU 0 of gpu05" in now


def test_the_story_of_somebody_who_waits_names_the_place(database):
    for number, name in enumerate(["bob", "ada"]):
        add(
            database,
            TicketRow(
                id=name, user=name, server_name="", gpu_count=1, options="{}", state="waiting",
                created_at=T + number, place=T + number, attempts=0,
            ),
        )  # fmt: skip
    assert "number 2 in the line" in database.transact(lambda session: story(session, "ada", 0, T + 60)).now[0]


@pytest.fixture
def hub(tmp_path, monkeypatch, simulator, simulator_library):
    """Settings with eight simulated GPUs, and an up-to-date database."""
    settings = {
        "hub": {"state_directory": str(tmp_path)},
        "gpus": {
            "simulated": 8,
            "simulator_library": str(simulator_library),
            "simulator_state": str(simulator.path),
            "server_name": "gpu01",
        },
    }
    file = tmp_path / "settings.yml"
    file.write_text(json.dumps(settings))
    monkeypatch.setenv("IDLHUB_SETTINGS", str(file))
    with opened(sqlite_url(tmp_path)) as database:
        yield database


@pytest.fixture
def executor(hub):
    """Answer requests as a hub would; return what was asked."""
    asked, ending = [], threading.Event()

    async def answer():
        commands = Commands(hub)
        for command in await commands.waiting():
            asked.append((command.kind, dict(command.arguments)))
            refused = command.arguments.get("server") == "gpu99"
            words = "There is no server 'gpu99'." if refused else f"{command.kind} is done."
            await commands.settle(command.id, Answer(REFUSED if refused else DONE, words))

    def run():
        while not ending.wait(0.05):
            asyncio.run(answer())

    thread = threading.Thread(target=run)
    thread.start()
    yield asked
    ending.set()
    thread.join()


def test_gpus_shows_state_holder_load_and_reason_in_columns(hub, simulator, capsys):
    uuid = simulator.gpus()[0].uuid
    lease = held("l1", "ada", T, None, server="gpu01")
    lease.gpus[0].gpu_uuid = uuid
    add(hub, lease)
    simulator.set(0, utilization_ratio=0.5, memory_used_bytes=9 * 2**30)
    simulator.set(3, utilization_ratio=0.8)

    assert main(["gpus"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len({line.index("ada") for line in lines if "ada" in line} | {lines[0].index("HOLDER")}) == 1
    assert lines[1].split() == ["gpu01", "0", "taken", "ada", "50%", "9.0", "11.0", "31"]
    assert lines[4].split()[:4] == ["gpu01", "3", "foreign", "-"]
    assert "outside the hub" in lines[4]
    assert lines[-1] == "6 of 8 GPUs free (simulated), 1 taken, 1 other."

    assert main(["gpus", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpus"][uuid]["holder"] == "ada"


def test_servers_shows_engine_agent_gpus_sessions_and_state_in_columns(hub, simulator, capsys):
    lease = held("l1", "ada", T, None, server="gpu01")
    lease.gpus[0].gpu_uuid = simulator.gpus()[0].uuid
    add(hub, lease, OutOfServiceRow(kind="server", target="gpu01", reason="new fans", by="root", since=T))
    member = Member("gpu01", None, engine_version="26.1.5", said_at=time.time())
    hub.transact(lambda session: write_members(session, [member]))

    assert main(["servers"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:9] == ["gpu01", "-", "26.1.5", "answers", "580.95.05", "0", "1", "7", "1"]
    assert lines[1].split()[-1] == "drained"
    assert lines[2].startswith("gpu01: drained: new fans (root, 2023-11-14")
    assert lines[-1] == "1 server, 1 session."

    assert main(["servers", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu01"]["engine_version"] == "26.1.5"


def test_servers_says_since_when_an_engine_is_silent_and_when_the_hub_itself_is(hub, capsys):
    assert main(["servers"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[2] == "unknown"
    assert out.endswith("The hub has not told anything of its servers yet. Was it started?\n")

    member = Member("gpu01", None, silent_since=T, fault="no route to host", said_at=T + 60)
    hub.transact(lambda session: write_members(session, [member]))
    assert main(["servers"]) == 0
    out = capsys.readouterr().out
    assert "silent since 2023-11-1" in out.splitlines()[1]
    assert "no route to host" in out.splitlines()[2]
    assert "The hub has told nothing since 2023-11-1" in out.splitlines()[-1]


def test_line_shows_who_waits_and_says_when_nobody_does(hub, capsys):
    assert main(["line"]) == 0
    assert capsys.readouterr().out == "Nobody waits.\n"
    ticket = {"server_name": "", "gpu_count": 1, "options": "{}", "state": "waiting", "attempts": 0}
    add(hub, TicketRow(id="t1", user="ada", created_at=T, place=T, **ticket))
    assert main(["line"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split()[:2] == ["1", "ada"]
    assert "unknown" in row


def test_drain_and_exclude_ask_the_hub_and_print_its_words(hub, executor, simulator, capsys):
    assert main(["drain", "gpu01", "--reason", "new fans"]) == 0
    assert main(["undrain", "gpu01"]) == 0
    assert main(["exclude", "gpu01:5", "--force"]) == 0
    assert main(["include", "GPU-abc"]) == 0
    assert main(["reload"]) == 0
    uuid = simulator.gpus()[5].uuid
    assert executor == [
        ("drain", {"server": "gpu01", "reason": "new fans", "force": False}),
        ("undrain", {"server": "gpu01"}),
        ("exclude", {"gpu_uuid": uuid, "reason": "excluded", "force": True}),
        ("include", {"gpu_uuid": "GPU-abc"}),
        ("reload", {}),
    ]
    assert (
        capsys.readouterr().out
        == "drain is done.\nundrain is done.\nexclude is done.\ninclude is done.\nreload is done.\n"
    )


def test_end_asks_for_the_end_of_every_session_of_one_server(hub, executor, capsys):
    add(
        hub,
        held("a", "ada", T, None, server="gpu03"),
        held("b", "bob", T + 1, None, server="gpu03", gpus=0),
        held("c", "carl", T, None, server="gpu04"),
        held("d", "dora", T, T + 1, server="gpu03"),
    )
    assert main(["end", "gpu03", "--message", "new fans"]) == 0
    assert executor == [
        ("end_session", {"lease_id": "a", "message": "new fans"}),
        ("end_session", {"lease_id": "b", "message": "new fans"}),
    ]
    assert main(["end", "gpu05"]) == 0
    assert capsys.readouterr().out.endswith("No session runs on gpu05.\n")


@pytest.mark.parametrize(
    ("hours", "status", "words"), [(168, 1, "Students work towards"), (0, 0, "No deadline is near")]
)
def test_quiet_says_by_words_and_status_whether_a_deadline_is_near(tmp_path, monkeypatch, capsys, hours, status, words):
    file = tmp_path / "settings.yml"
    quiet = {"deadline": "Sunday 18:00", "time_zone": "UTC", "hours": hours}
    file.write_text(json.dumps({"hub": {"state_directory": str(tmp_path)}, "quiet": quiet}))
    monkeypatch.setenv("IDLHUB_SETTINGS", str(file))
    assert main(["quiet"]) == status
    assert words in capsys.readouterr().out


def test_what_the_hub_refuses_fails_with_its_words(hub, executor, capsys):
    assert main(["drain", "gpu99"]) == 1
    assert capsys.readouterr().err == "There is no server 'gpu99'.\n"
    assert main(["exclude", "gpu01:77"]) == 1
    assert "there is no GPU gpu01:77" in capsys.readouterr().err


def test_a_hub_that_does_not_answer_is_named(hub, monkeypatch, capsys):
    monkeypatch.setattr("idl_hub.shell.ask._ANSWER_SECONDS", 0.2)
    assert main(["drain", "gpu01"]) == 1
    assert "Does it run?" in capsys.readouterr().err


def test_usage_as_csv_can_be_read_by_a_spreadsheet(hub, capsys):
    begin = datetime.fromisoformat("2026-04-01T08:00").astimezone().timestamp()
    add(hub, held("a", "ada", begin, begin + HOUR, measured=HOUR, busy=HOUR / 4))
    assert main(["usage", "--since", "2026-04-01", "--until", "2026-04-02", "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row == {
        "user": "ada",
        "sessions": "1",
        "gpu_hours": "1.0",
        "measured_hours": "1.0",
        "utilization_ratio": "0.25",
    }


@pytest.mark.parametrize("words", [["--since", "yesterday"], ["--since", "2026-04-02", "--until", "2026-04-01"]])
def test_a_time_that_makes_no_sense_is_refused_in_one_line(hub, words, capsys):
    assert main(["usage", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("idl-hub usage: ")
    assert error.count("\n") == 1


def test_why_prints_one_line_a_step_and_says_when_nobody_is_called_so(hub, capsys):
    add(hub, held("l1", "ada", time.time() - 60, None))
    assert main(["why", "ada"]) == 0
    out = capsys.readouterr().out
    assert "lease   GPU 0 of gpu05 reserved" in out
    assert "Nothing to do." in out
    assert main(["why", "nobody"]) == 1
    assert "Nobody called 'nobody'" in capsys.readouterr().err


def test_without_a_database_the_commands_say_what_to_check(tmp_path, monkeypatch, capsys):
    file = tmp_path / "settings.yml"
    file.write_text(json.dumps({"hub": {"state_directory": str(tmp_path / "none")}}))
    monkeypatch.setenv("IDLHUB_SETTINGS", str(file))
    assert main(["why", "ada"]) == 1
    assert "Check that the hub was started once" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
