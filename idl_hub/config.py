"""From settings to JupyterHub's configuration: one function for each part, called in order."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyterhub.app import JupyterHub
from prometheus_client import REGISTRY

from idl_hub import subdomains
from idl_hub.db import Database
from idl_hub.db.accounts import NAME_PATTERN
from idl_hub.gpus.leases import Leases
from idl_hub.homes.snapshots import kept_by
from idl_hub.login import AccountNamesMixin, DemoAuthenticator
from idl_hub.people import CUSTOM_SCOPES, GROUPS, HELPER, PROMETHEUS, ROLES, SERVER_TOKEN_SCOPES, SMOKER, demo_people
from idl_hub.settings import Settings, SettingsError
from idl_hub.spawners import GPUDockerSpawner, GPUProcessSpawner, GPUSpawnerMixin
from idl_hub.spawners.hosts import make_host, this_machine
from idl_hub.spawners.hub_api import HubAPI
from idl_hub.spawners.runtime import Runtime
from idl_hub.tokens import service_token
from idl_hub.web import service as web_service

if TYPE_CHECKING:
    from idl_hub.spawners.host import Host

log = logging.getLogger("idl_hub")
_WEB = Path(__file__).parent / "web"
_HOME_IN_CONTAINER = "/home/student"
_HTTP_TIMEOUT_SECONDS = 60
_SHORTEST_PASSWORD = 8


def configure(c: Any, settings: Settings) -> None:
    """Configure the hub, and start what must live beside it in its loop."""
    state = settings.hub.state_directory
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)  # it may have been there before, open to others
    except OSError as error:
        raise SettingsError(f"hub.state_directory is {str(state)!r}; it cannot be made: {error}") from error
    _hub(c, settings)
    _pages(c, settings)
    _people(c, settings)
    _services(c, settings)
    _spawner(c, settings)
    _runtime(settings)


def _hub(c: Any, settings: Settings) -> None:
    hub = settings.hub
    state = hub.state_directory
    c.JupyterHub.bind_url = _url(hub.public_address, hub.public_port)
    c.JupyterHub.hub_bind_url = _url(hub.internal_address, hub.internal_port)
    c.JupyterHub.hub_connect_url = _url(hub.internal_address, hub.internal_port)
    c.JupyterHub.db_url = _secret(hub.hub_database_url) or f"sqlite:///{state}/jupyterhub.sqlite"
    c.JupyterHub.upgrade_db = True
    c.JupyterHub.cookie_secret_file = str(state / "cookie_secret")
    # The hub can be started again while people work: proxy and servers are not its children.
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False
    # With it the hub looks whether the proxy still has its routes: one that crashed comes back without any.
    c.JupyterHub.last_activity_interval = 60
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{hub.proxy_api_port}"
    subdomains.configure(c, hub.subdomain_host)


def _pages(c: Any, settings: Settings) -> None:
    c.JupyterHub.template_paths = [str(_WEB / "templates")]
    c.JupyterHub.logo_file = str(_WEB / "static" / "logo.svg")
    c.JupyterHub.template_vars = {
        "trial": settings.trial,
        "simulated": bool(settings.gpus.simulated),
        "isolated": settings.spawner.kind != "process",
        "demo_students": settings.login.demo_students if settings.login.kind == "demo" else 0,
        "web_url": web_service.public_url(settings),
        "versions": kept_by(settings.homes),
    }


def _people(c: Any, settings: Settings) -> None:
    c.JupyterHub.load_groups = {group: {"users": []} for group in GROUPS}
    c.JupyterHub.load_roles = list(ROLES)
    c.Authenticator.username_pattern = NAME_PATTERN
    if settings.login.kind == "demo":
        people = demo_people(settings.login.demo_students)
        c.JupyterHub.load_groups = {group: {"users": names} for group, names in people.items()}
        c.JupyterHub.authenticator_class = DemoAuthenticator
        c.DemoAuthenticator.allowed_users = {name for names in people.values() for name in names}
        c.DemoAuthenticator.user_password = _demo_password(settings)


def _services(c: Any, settings: Settings) -> None:
    """Register what asks the hub from outside its request handlers, each with a token for just that."""
    c.JupyterHub.custom_scopes = CUSTOM_SCOPES
    # `web` is not a child of the hub, which would end it with itself: whoever starts the hub starts it as well.
    c.JupyterHub.services = [
        web_service.hub_entry(settings),
        {"name": PROMETHEUS, "api_token": service_token(settings.hub.state_directory, PROMETHEUS)},
        *({"name": name, "api_token": service_token(settings.hub.state_directory, name)} for name in (HELPER, SMOKER)),
    ]


def _demo_password(settings: Settings) -> str:
    file = settings.login.demo_password_file
    if file is None:
        raise SettingsError("login.demo_password_file is missing; the demo login needs a file with its password")
    try:
        password = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"login.demo_password_file is {str(file)!r}; it cannot be read: {error}") from error
    if len(password) < _SHORTEST_PASSWORD:
        raise SettingsError(
            f"login.demo_password_file is {str(file)!r}; "
            f"the password in it has {len(password)} characters; allowed: at least {_SHORTEST_PASSWORD}"
        )
    return password


def _spawner(c: Any, settings: Settings) -> None:
    wanted = settings.spawner
    c.Spawner.start_timeout = wanted.start_timeout_seconds
    # Outlasts the grace time of poll() at a hub's start, or JupyterHub would stop a server that is only busy.
    grace_seconds = max(wanted.restart_grace_seconds, wanted.server_lost_minutes * 60 if settings.servers else 0)
    c.Spawner.http_timeout = round(grace_seconds) + _HTTP_TIMEOUT_SECONDS
    c.Spawner.default_url = "/lab"
    c.Spawner.mem_limit = wanted.memory_limit
    c.Spawner.cpu_limit = wanted.cpu_limit
    c.Spawner.group_overrides = {
        # Applied in the order of these names, so who is in two groups gets the larger number.
        f"{most:02d}-{group}": {"groups": [group], "spawner_override": {"most_gpus": most}}
        for group, most in settings.sessions.most_gpus.items()
    }
    c.Spawner.server_token_scopes = list(SERVER_TOKEN_SCOPES)
    c.Spawner.environment = {"IDLHUB_WEB_URL": web_service.url_for_servers(settings)}
    simulator_state = str(settings.gpus.simulator_state) if settings.gpus.simulated else ""
    if wanted.kind == "docker":
        c.JupyterHub.spawner_class = GPUDockerSpawner
        c.GPUDockerSpawner.image = wanted.image
        c.GPUDockerSpawner.prefix = "idlhub"
        c.GPUDockerSpawner.network_name = wanted.network
        c.GPUDockerSpawner.use_internal_ip = False
        if settings.homes.directory is None:
            c.GPUDockerSpawner.volumes = {wanted.home_volume: _HOME_IN_CONTAINER}
        c.GPUDockerSpawner.pids_limit = wanted.pids_limit
        c.GPUDockerSpawner.shm_size = wanted.shared_memory
        c.GPUDockerSpawner.temporary_space = wanted.temporary_space
        c.GPUDockerSpawner.cpu_shares = int(wanted.cpu_guarantee * 1024)
        c.GPUDockerSpawner.simulator_state = simulator_state
    else:
        c.JupyterHub.spawner_class = GPUProcessSpawner
        # Containers outlive the hub on purpose; plain processes of a trial should not be left behind by Ctrl-C.
        c.JupyterHub.cleanup_servers = True
        python = str(wanted.student_python or "python3")
        # Jupyter refuses to run as root unless told: in a trial it has the hub's own user, whoever that is.
        as_root = ["--allow-root"] if os.geteuid() == 0 else []
        c.GPUProcessSpawner.cmd = [python, "-m", "jupyterhub.singleuser", *as_root]
        c.GPUProcessSpawner.first_files = str(wanted.first_files or "")
        c.GPUProcessSpawner.home_dir_template = str(settings.hub.state_directory / "homes" / "{username}")
        c.GPUProcessSpawner.simulator_state = simulator_state
        library = settings.gpus.simulator_library
        c.GPUProcessSpawner.simulator_library_directory = str(library.parent) if library and simulator_state else ""


def _runtime(settings: Settings) -> None:
    """Open the ledger and hand it to spawners and logins; in a hub that starts, run it in the hub's loop."""
    database = Database(settings.hub.database_address)
    database.upgrade()
    if settings.gpus.simulated:
        # The stand-in library reads where its state is from the environment, as it does in containers.
        os.environ["IDLHUB_SIMULATOR_STATE"] = str(settings.gpus.simulator_state)
    hub = settings.hub
    api = HubAPI(
        f"{_url(hub.internal_address, hub.internal_port)}/hub/api",
        service_token(hub.state_directory, HELPER),
        lambda: JupyterHub.instance().proxy,
    )
    runtime = Runtime(settings, database, _hosts(settings), Leases(database).read_hub_id(), api)
    GPUSpawnerMixin.runtime = runtime
    AccountNamesMixin.accounts = runtime.accounts
    AccountNamesMixin.events = runtime.events
    if not JupyterHub.initialized():
        return  # a subcommand such as `jupyterhub upgrade-db` reads the configuration without serving anybody
    app, loop = JupyterHub.instance(), asyncio.get_running_loop()
    subdomains.keep_hub_on_its_own_domain(app, hub.subdomain_host)
    task = loop.create_task(runtime.run(app._start_future))
    task.add_done_callback(_runtime_ended)
    runtime.task = task
    REGISTRY.register(runtime.metrics)


def _runtime_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("The keeper of GPUs and leases ended; no session can start.", exc_info=task.exception())


def _hosts(settings: Settings) -> dict[str, Host]:
    return {server.name: make_host(server, settings.spawner) for server in settings.servers or [this_machine(settings)]}


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _secret(value: Any) -> str | None:
    return value.get_secret_value() if value is not None else None
