"""From a server of the settings to the host that the keeper looks after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from idl_hub.settings_servers import EngineSettings, ServerSettings
from idl_hub.spawners.engine import Engine
from idl_hub.spawners.process import LocalProcesses

if TYPE_CHECKING:
    from idl_hub.settings import Settings, SpawnerSettings
    from idl_hub.spawners.host import Host

_THIS_MACHINE = "127.0.0.1"


def this_machine(settings: Settings) -> ServerSettings:
    """Return the one server there is when the settings name none: this machine with its own engine."""
    # Its name is for people and may have spaces, which the name of a server among others may not.
    return ServerSettings.model_construct(
        name=settings.gpus.server_name,
        address=_THIS_MACHINE,
        engine=EngineSettings(url=settings.spawner.engine_url),
        agent=None,
    )


def make_host(server: ServerSettings, spawner: SpawnerSettings) -> Host:
    """Return the place where a server's sessions run; it is not connected to before it is used.

    Raises
    ------
    ValueError
        When sessions are containers and the server has no engine.
    """
    if spawner.kind == "process":
        return LocalProcesses(server.name, spawner.stop_timeout_seconds)
    if server.engine is None:
        raise ValueError(f"{server.name} has no engine")
    return Engine(
        server.name,
        server.engine,
        server.address or _THIS_MACHINE,
        threads=spawner.engine_threads,
        timeout_seconds=spawner.call_timeout_seconds,
        stop_timeout_seconds=spawner.stop_timeout_seconds,
    )
