"""`idl-hub reload`: what the hub takes over from changed settings, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from idl_hub.db import Database
from idl_hub.db.commands import Command
from idl_hub.db.events import Events
from idl_hub.db.tables import EventRow
from idl_hub.settings import Settings, SettingsError
from idl_hub.settings_servers import QuietSettings, ServerSettings
from idl_hub.spawners.executor import Refused
from idl_hub.spawners.members import Changes
from idl_hub.spawners.reload import Reload

COMMAND = Command(1, "reload", {}, "root at the shell")
SERVERS = [{"name": "gpu1"}, {"name": "gpu2"}]
BEFORE = {"servers": SERVERS[:1], "spawner": {"kind": "process"}}


class Told:
    """What the hub's members and executor were told."""

    def __init__(self) -> None:
        self.servers: list[tuple[ServerSettings, ...]] = []
        self.quiet = QuietSettings()
        self.changes = Changes()

    def apply(self, servers: tuple[ServerSettings, ...]) -> Changes:
        self.servers.append(servers)
        return self.changes


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def reload(told: Told, database: Database) -> Callable[..., Any]:
    """Return how to reload: from the settings before to those now, which may be an error."""

    async def run(now: dict[str, Any] | SettingsError, before: dict[str, Any] | None = None) -> str:
        def read() -> Settings:
            if isinstance(now, SettingsError):
                raise now
            return Settings.model_validate(now)

        started_with = Settings.model_validate(BEFORE if before is None else before)
        members: Any = told
        executor: Any = told
        return await Reload(started_with, members, executor, Events(database), read).execute(COMMAND)

    return run


async def test_settings_that_cannot_be_used_are_refused_with_their_one_line_and_change_nothing(
    reload: Callable[..., Any], told: Told
) -> None:
    with pytest.raises(Refused, match=r"nothing was changed: settings\.yml: spawner\.kind is 'swarm'; allowed"):
        await reload(SettingsError("settings.yml: spawner.kind is 'swarm'; allowed: 'docker' or 'process'"))
    with pytest.raises(Refused, match="servers is empty"):
        await reload({"spawner": {"kind": "process"}})
    assert told.servers == []


async def test_servers_do_not_join_a_hub_whose_homes_are_others(
    reload: Callable[..., Any], told: Told, tmp_path: Path
) -> None:
    now = BEFORE | {"servers": SERVERS, "homes": {"directory": str(tmp_path)}}
    with pytest.raises(Refused, match=r"homes\.directory has changed, which needs a restart"):
        await reload(now)
    assert told.servers == []
    await reload(now, now)
    assert len(told.servers) == 1


@pytest.mark.parametrize("key", ["ca_file", "token_file"])
async def test_a_file_that_a_server_needs_and_that_cannot_be_read_is_named(
    reload: Callable[..., Any], told: Told, tmp_path: Path, key: str
) -> None:
    files = {"ca_file": tmp_path / "ca.pem", "token_file": tmp_path / "token"}
    for file in files.values():
        file.touch()
    agent = {"url": "https://10.0.0.5:9810"} | {name: str(file) for name, file in files.items()}
    now = BEFORE | {"servers": [{"name": "gpu2", "agent": agent}]}
    await reload(now)
    assert len(told.servers) == 1
    files[key].unlink()
    with pytest.raises(Refused, match=rf"servers.0.agent.{key} is '{files[key]}'; it cannot be read: No such file"):
        await reload(now)
    assert len(told.servers) == 1


async def test_what_changes_is_said_and_recorded(reload: Callable[..., Any], told: Told, database: Database) -> None:
    told.changes = Changes(joined=("gpu2",), changed=("gpu1",), leaving=("gpu0",))
    homes = {"homes": {"directory": "/srv/homes"}}
    assert await reload(BEFORE | homes | {"servers": SERVERS}, BEFORE | homes) == (
        "Joining: gpu2. Changed, in force as soon as no session starts or stops there: gpu1. "
        "Leaving as soon as the sessions there have ended: gpu0."
    )
    assert [server.name for server in told.servers[0]] == ["gpu1", "gpu2"]
    recorded = database.transact(lambda session: dict(session.execute(select(EventRow.server, EventRow.text)).all()))
    assert recorded == {
        "gpu0": "gpu0 leaves: it is not in the settings any more (root at the shell)",
        "gpu1": "gpu1 has other settings (root at the shell)",
        "gpu2": "gpu2 joins (root at the shell)",
    }


async def test_the_quiet_hours_are_taken_over_and_other_keys_need_a_restart(
    reload: Callable[..., Any], told: Told
) -> None:
    now = BEFORE | {
        "quiet": {"hours": 2},
        "spawner": {"kind": "process", "pids_limit": 100},
        "sessions": {"longest_hours": 1},
        "trial": True,
    }
    assert await reload(now) == (
        "The quiet hours are as the settings say now. "
        "These need a restart of the hub: sessions.longest_hours, spawner.pids_limit, trial."
    )
    assert told.quiet == QuietSettings(hours=2)
    # The same again: the quiet hours are in force by now, the rest still waits for a restart.
    assert (await reload(now)).startswith("These need a restart")


async def test_settings_that_say_nothing_new_are_called_so(reload: Callable[..., Any]) -> None:
    assert await reload(BEFORE) == "The settings say nothing new."


async def test_a_hub_of_one_machine_needs_a_restart_to_get_servers(reload: Callable[..., Any], told: Told) -> None:
    assert await reload(BEFORE, {"spawner": {"kind": "process"}}) == "These need a restart of the hub: servers."
    assert told.servers == []
