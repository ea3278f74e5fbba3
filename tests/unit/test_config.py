"""From settings to JupyterHub's configuration, and the demo login."""

from __future__ import annotations

import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from parts import opened, sqlite_url
from tornado import web
from traitlets.config import Config

from idl_hub.config import configure
from idl_hub.db.accounts import NAME_PATTERN, Accounts
from idl_hub.login import AccountNamesMixin, DemoAuthenticator
from idl_hub.people import GROUPS, ROLES, demo_people
from idl_hub.settings import Settings, SettingsError
from idl_hub.spawners import GPUDockerSpawner, GPUProcessSpawner, GPUSpawnerMixin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "correct-horse"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    return file


@pytest.fixture(autouse=True)
def _runtime_ends() -> Iterator[None]:
    """Let go of what `configure` hands to spawners and logins."""
    yield
    if (runtime := GPUSpawnerMixin.__dict__.get("runtime")) is not None:
        for host in runtime.keeper.hosts.values():
            host.close()
        runtime.database.close()
        del GPUSpawnerMixin.runtime, AccountNamesMixin.accounts


def configured(folder: Path, **sections: dict[str, Any]) -> Any:
    sections.setdefault("login", {})
    sections["login"].setdefault("demo_password_file", str(folder / "password"))
    sections.setdefault("hub", {}).setdefault("state_directory", str(folder / "state"))
    c = Config()
    configure(c, Settings.model_validate(sections))
    return c


def test_the_state_directory_is_made_for_the_hub_alone(tmp_path: Path, password_file: Path) -> None:
    configured(tmp_path)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert (tmp_path / "state" / "idl_hub.sqlite").exists()


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path, password_file: Path) -> None:
    with pytest.raises(SettingsError, match=r"hub.state_directory is .*password/state'; it cannot be made: "):
        configured(tmp_path, hub={"state_directory": str(password_file / "state")})


@pytest.mark.parametrize(
    ("address", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("localhost", "http://localhost:8000"), ("::1", "http://[::1]:8000")],
)
def test_every_loopback_address_makes_a_valid_url(tmp_path: Path, password_file: Path, address: str, url: str) -> None:
    assert configured(tmp_path, hub={"public_address": address}).JupyterHub.bind_url == url


def test_servers_and_proxy_outlive_the_hub(tmp_path: Path, password_file: Path) -> None:
    c = configured(tmp_path)
    assert c.JupyterHub.cleanup_servers is False
    assert c.JupyterHub.cleanup_proxy is False
    assert c.ConfigurableHTTPProxy.should_start is False


def test_limits_of_the_settings_reach_the_containers(tmp_path: Path, password_file: Path) -> None:
    spawner = {"memory_limit": "1GiB", "cpu_guarantee": 2.5, "cpu_limit": 4, "pids_limit": 100, "shared_memory": "1MiB"}
    c = configured(tmp_path, spawner=spawner)
    assert c.JupyterHub.spawner_class is GPUDockerSpawner
    assert (c.Spawner.mem_limit, c.Spawner.cpu_limit) == (2**30, 4)
    docker = c.GPUDockerSpawner
    assert (docker.cpu_shares, docker.pids_limit, docker.shm_size) == (2560, 100, 2**20)


@pytest.mark.parametrize("spawner", [{"cpu_guarantee": 0.01, "shared_memory": "1MiB", "pids_limit": 64}, {}])
def test_whatever_the_settings_allow_the_spawner_takes(
    tmp_path: Path, password_file: Path, spawner: dict[str, Any]
) -> None:
    c = configured(tmp_path, spawner=spawner)
    made = GPUDockerSpawner(config=c, user=SimpleNamespace(name="anna"), _deprecated_db_session=None)
    assert made.cpu_shares == c.GPUDockerSpawner.cpu_shares
    assert made.shm_size == c.GPUDockerSpawner.shm_size


def test_the_hubs_patience_outlasts_the_grace_of_a_restart(tmp_path: Path, password_file: Path) -> None:
    c = configured(tmp_path, spawner={"restart_grace_seconds": 600})
    assert c.Spawner.http_timeout > 600


def test_without_docker_processes_are_started(tmp_path: Path, password_file: Path) -> None:
    c = configured(tmp_path, spawner={"kind": "process", "student_python": "/opt/python"})
    assert c.JupyterHub.spawner_class is GPUProcessSpawner
    assert c.GPUProcessSpawner.cmd[:3] == ["/opt/python", "-m", "jupyterhub.singleuser"]
    assert c.JupyterHub.template_vars["isolated"] is False


def test_a_login_without_its_password_file_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="demo_password_file is missing; the demo login needs a file"):
        configured(tmp_path, login={"demo_password_file": None})
    with pytest.raises(SettingsError, match=r"demo_password_file is '.*/password'; it cannot be read: "):
        configured(tmp_path)


def test_a_password_too_short_is_refused_without_showing_it(tmp_path: Path, password_file: Path) -> None:
    password_file.write_text("hunter2\n")
    with pytest.raises(SettingsError, match="has 7 characters; allowed: at least 8") as caught:
        configured(tmp_path)
    assert "hunter2" not in str(caught.value)


def test_the_people_of_a_trial_are_in_their_groups(tmp_path: Path, password_file: Path) -> None:
    c = configured(tmp_path, login={"demo_students": 3})
    groups = {name: group["users"] for name, group in c.JupyterHub.load_groups.items()}
    assert (
        groups
        == demo_people(3)
        == {
            "students": ["student1", "student2", "student3"],
            "assistants": ["assistant"],
            "lecturers": ["lecturer"],
            "admins": ["admin"],
        }
    )
    assert set(groups) == set(GROUPS)
    assert c.DemoAuthenticator.allowed_users == {name for names in groups.values() for name in names}


def test_no_role_lets_anybody_into_somebody_elses_server() -> None:
    for role in ROLES:
        for scope in role["scopes"]:
            of_a_test = scope.endswith("!user=idlhub-smoke")  # nobody's: no person gets that name
            entering = scope.startswith(("access:servers", "admin:servers", "admin-ui!", "inherit"))
            assert of_a_test or not entering, role["name"]


def test_the_smoke_tests_token_is_about_its_own_account_alone(tmp_path: Path, password_file: Path) -> None:
    [role] = [role for role in ROLES if "smoke" in role.get("services", ())]
    assert {scope.partition("!")[2] for scope in role["scopes"]} == {"user=idlhub-smoke"}
    services = configured(tmp_path).JupyterHub.services
    assert [set(service) for service in services if service["name"] == "smoke"] == [{"name", "api_token"}]


def test_staff_below_admins_reaches_students_only() -> None:
    for role in ROLES:
        if role["name"] in ("idlhub-assistants", "idlhub-lecturers"):
            about_people = [s for s in role["scopes"] if "users" in s or "servers" in s or s.endswith(":write")]
            assert all(scope.endswith("!group=students") for scope in about_people), role["name"]


# -- the login --------------------------------------------------------------------------------------------


@pytest.fixture
def login(tmp_path: Path, password_file: Path) -> DemoAuthenticator:
    config = configured(tmp_path)
    authenticator = DemoAuthenticator(config=config)
    assert authenticator.user_password == PASSWORD
    return authenticator


async def log_in(login: DemoAuthenticator, name: str, password: str = PASSWORD) -> str | None:
    found = await login.get_authenticated_user(None, {"username": name, "password": password})
    return found["name"] if found else None


@pytest.mark.parametrize("typed", ["student1", "Student1", " student1 "])
async def test_a_demo_user_logs_in_however_the_name_is_spelled(login: DemoAuthenticator, typed: str) -> None:
    assert await log_in(login, typed) == "student1"


@pytest.mark.parametrize(
    "typed", ["student99", "\N{LATIN SMALL LETTER LONG S}tudent1", "../admin", "student1-0123456789"]
)
async def test_nobody_else_is_let_in(login: DemoAuthenticator, typed: str) -> None:
    assert await log_in(login, typed) is None


async def test_a_wrong_password_lets_nobody_in(login: DemoAuthenticator) -> None:
    assert await log_in(login, "student1", "wrong") is None


async def test_a_login_that_cannot_be_an_account_is_told_why(login: DemoAuthenticator) -> None:
    with pytest.raises(web.HTTPError) as caught:
        await log_in(login, "x" * 600)
    assert caught.value.status_code == 403
    assert "more than 512 characters" in str(caught.value.log_message)


@pytest.mark.parametrize("name", ["Foo Bar", "../x", "x" * 33, "-a", "anna/ben"])
def test_names_that_break_paths_cannot_be_added_by_hand_either(login: DemoAuthenticator, name: str) -> None:
    assert not login.validate_username(name)
    assert login.validate_username("anna")
    assert login.username_regex.pattern == NAME_PATTERN


async def test_a_login_enters_the_table_of_names(login: DemoAuthenticator, tmp_path: Path) -> None:
    await log_in(login, "Student2")
    with opened(sqlite_url(tmp_path / "state")) as database:
        account = await Accounts(database).of_name("student2")
    assert account is not None
    assert (account.provider, account.login) == ("demo", "student2")
