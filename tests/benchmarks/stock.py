"""A hub with stock DockerSpawner: what one gets from its documentation, with our image and network."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from hubs import NETWORK, Hub, docker

_CONFIG = """\
import os
from pathlib import Path

c = get_config()
c.JupyterHub.bind_url = {url!r}
c.JupyterHub.hub_bind_url = c.JupyterHub.hub_connect_url = {internal_url!r}
c.JupyterHub.cleanup_servers = False
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = {proxy_api_url!r}
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.load_groups = {{"class": {{"users": {users!r}}}}}
c.JupyterHub.services = [{{"name": "tests", "api_token": os.environ["IDLHUB_TEST_TOKEN"], "admin": True}}]
c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.DockerSpawner.image = {image!r}
c.DockerSpawner.remove = True
c.DockerSpawner.network_name = {network!r}
c.DockerSpawner.use_internal_ip = False
c.DockerSpawner.prefix = {prefix!r}
c.DockerSpawner.volumes = {{"{prefix}{{username}}": "/home/student"}}
{more}
"""


class StockHub(Hub):
    """The same proxy, machine, image and network as `Hub`; JupyterHub and DockerSpawner as they come."""

    def __init__(self, folder: Path, *, students: int, image: str, config: str = "") -> None:
        super().__init__(folder, gpus=0, students=students)
        hub: dict[str, Any] = self.settings["hub"]
        (folder / "config.py").write_text(
            _CONFIG.format(
                url=self.url,
                internal_url=f"http://{hub['internal_address']}:{hub['internal_port']}",
                proxy_api_url=f"http://127.0.0.1:{hub['proxy_api_port']}",
                users=[f"student{number}" for number in range(1, students + 1)],
                image=image,
                network=NETWORK,
                prefix=self.volume_prefix,
                more=config,
            )
        )

    def containers(self, *, running: bool = False) -> list[str]:
        """Return the ids of this hub's containers, found by their names' prefix."""
        every = [] if running else ["-a"]
        return docker("ps", *every, "-q", "--no-trunc", "--filter", f"name=^/{self.volume_prefix}").split()


def listening_at(container: str) -> float:
    """Return when Jupyter said in its log that it listens, in seconds since 1970 by the engine's clock."""
    shown = subprocess.run(["docker", "logs", "--timestamps", container], capture_output=True, text=True, timeout=60)
    for line in (shown.stdout + shown.stderr).splitlines():
        if "is running at" in line:
            stamp = line.split()[0]  # with nanoseconds, and Z for the zone
            return datetime.fromisoformat(stamp[:26] + "+00:00").timestamp()
    raise AssertionError(f"{container} never said that it listens:\n{shown.stderr}")
