"""`GPUDockerSpawner`: dockerspawner's options, our way to the engine, a GPU by UUID."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, ImageNotFound, NotFound
from docker.types import DeviceRequest, LogConfig, Ulimit
from docker.utils import parse_bytes
from dockerspawner import DockerSpawner
from traitlets import Bool, Integer, Unicode, default

from idl_hub.db.accounts import hub_name
from idl_hub.gpus.leases import Phase
from idl_hub.homes.mounts import home_mounts
from idl_hub.spawners import home
from idl_hub.spawners.engine import GPUS_LABEL, HUB_LABEL, LEASE_LABEL, USER_LABEL, Engine
from idl_hub.spawners.gpu import GPUSpawnerMixin
from idl_hub.spawners.host import HostError
from idl_hub.spawners.refusal import Refusal

if TYPE_CHECKING:
    from idl_hub.gpus.leases import Lease
    from idl_hub.homes.store import Home

_SHARE_FOR_THE_IMAGE = 0.9
_CPU_PERIOD_MICROSECONDS = 100_000
_SIMULATOR_IN_IMAGE = "/opt/idl_hub/simulator"
_SIMULATOR_STATE_IN_CONTAINER = "/run/idl_hub/simulator"
_RUNTIME_IN_IMAGE = "/var/local/idl_hub"
"""Where the student image keeps databases and what runs: not in the home, which may be NFS."""
_RUNTIME_SPACE_BYTES = 128 * 2**20


class GPUDockerSpawner(GPUSpawnerMixin, DockerSpawner):
    """Runs each server in a container of its own, with the leased GPU.

    Every option of dockerspawner keeps its meaning. What differs is how containers are found: by id, after
    their lease's label matched, never by name; and that each engine has its own client and threads.
    """

    pids_limit = Integer(2048, min=64, config=True, help="Processes and threads a container may have.")
    shm_size = Integer(2 * 2**30, min=2**20, config=True, help="Size of /dev/shm in bytes.")
    cpu_shares = Integer(
        2560, min=2, config=True, help="CPU shares of a container: 1024 for each core it gets when all are busy."
    )
    read_only = Bool(
        True,
        config=True,
        help="The container's own files cannot be written, so nobody fills the server's disk with them. What is "
        "temporary lies in memory: /tmp, and the small files of Jupyter in /var/local/idl_hub. "
        "An image that must write elsewhere gets a place with extra_host_config, such as "
        '{"tmpfs": {"/run": "size=16m"}}. Off: all of it lies on the server\'s disk, without a limit.',
    )
    temporary_space = Integer(
        8 * 2**30,
        min=2**20,
        config=True,
        help="Size of /tmp in bytes; it lies in memory and counts as such, so it is never more than half of mem_limit.",
    )
    unprivileged = Bool(
        True,
        config=True,
        help="No capabilities and no new privileges in the container. extra_host_config can give back single ones.",
    )
    simulator_state = Unicode(
        "", config=True, help="State file of the simulated cards; its folder is mounted read-only. Empty: real cards."
    )

    @default("host_ip")
    def _address_of_the_server(self) -> str:
        return ""  # its own one, which is known when the lease is

    @default("name_template")
    def _name_with_lease(self) -> str:
        # With the lease in it, a container that is still being removed is never in the way of the next one.
        return "{prefix}-{username}--{servername}--{lease}" if self.name else "{prefix}-{username}--{lease}"

    @default("escape")
    def _names_are_safe(self) -> Any:
        # Account names stay as they are; the names of further servers become as safe in the same way.
        return _safe_name

    def template_namespace(self) -> dict[str, str]:
        """Return dockerspawner's names for templates, and ``{lease}``."""
        return {**super().template_namespace(), "lease": self.lease.id if self.lease else ""}

    home: Home | None = None
    """As it was before the start; None before, and where homes are Docker volumes."""

    @property
    def will_resume(self) -> bool:
        """Whether a stopped container is started again: never, whatever `remove` says, so its token ends with it."""
        return False

    # -- the engine ---------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine that the lease names."""
        if self.lease is None:
            raise HostError("There is no lease, so there is no server to talk to.")
        host = self.host(self.lease)
        if not isinstance(host, Engine):
            raise HostError(f"{host.name} is not a Docker engine.")
        return host

    @property
    def client(self) -> Any:
        """The engine's own client, in place of dockerspawner's one for all."""
        return self.engine.client

    async def docker(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call the lease's engine in one of its own threads, in place of dockerspawner's one for all."""
        lease_id = self.lease.id if self.lease else ""
        return await self.engine.call(method, *args, lease_id=lease_id, **kwargs)

    async def get_object(self) -> Any:
        """Return what the engine says of our container, found by id and label; None when it is gone."""
        if self.lease is None or not self.object_id:
            return None
        return await self.engine.inspect(self.object_id, self.lease.id)

    # -- start ------------------------------------------------------------------------------------------

    async def launch(self, lease: Lease) -> tuple[str, int]:
        """Create and start the container of this lease."""
        self.object_id = ""
        self.object_name = self._render_templates(self.name_template)
        self.home = await home.prepare(self.runtime.homes, self.user.name, self.say)
        if chosen := self.user_options.get("image"):
            self.image = await self.check_allowed(chosen)
        started = False
        try:
            created = await self._create_from_image()
            self.object_id = created[self.object_id_key]
            await self.advance(lease, Phase.CREATING, self.object_id)
            self.say(40, "Your container is made; starting it")
            await self.start_object()
            started = True
            if self.post_start_cmd:
                await self.post_start_exec()
            return await self._published_address(lease)
        except (APIError, HostError) as error:
            if started:
                await self.check_alive(lease)  # what is asked of a container that has ended fails in many ways
            home.raise_if_missing(error, lease.server)
            if isinstance(error, HostError):
                raise
            raise self._refused(error) from error

    async def _published_address(self, lease: Lease) -> tuple[str, int]:
        try:
            address: tuple[str, int] = await self.get_ip_and_port()
        except (RuntimeError, IndexError, TypeError):
            # dockerspawner's ways to say that no port is published: a container that ended at once has none.
            await self.check_alive(lease)
            raise
        return address

    async def _create_from_image(self) -> Any:
        """Create the container from the offered version of its image, once that is on the server."""
        named = self.image
        self.say(20, f"Looking for the image {named}")
        # Said before JupyterHub's own deadline comes, which would say nothing of the image.
        seconds = _SHARE_FOR_THE_IMAGE * self.start_timeout
        images, policy = self.runtime.images, self.pull_policy.lower()
        self.image = await images.obtain(self.engine, named, policy, self.say, seconds)
        try:
            self.say(32, "Making your container")
            return await self.create_object()
        finally:
            self.image = named  # the next start asks anew which version of it is offered

    def _refused(self, error: APIError) -> Refusal:
        self.log.error("%s: the engine refused: %s", self._log_name, error)
        if isinstance(error, ImageNotFound | NotFound):
            what = f"The image {self.image} or something else your server needs is missing on its machine."
        elif error.status_code == 409 and not self.object_id:
            what = f"A container named {self.object_name} is in the way, and it is not yours to remove."
        else:
            what = f"The Docker engine refused to start your server: {error.explanation or error}."
        return Refusal(
            f"{what} Nothing of yours is lost. Tell the course's admins; trying again will not help.", "refused", 500
        )

    async def create_object(self) -> Any:
        """Create the container: dockerspawner's options, over them our limits, labels and the GPU."""
        create = {
            "image": self.image,
            "environment": self.get_env(),
            "volumes": self.volume_mount_points,
            "name": self.container_name,
            "command": await self.get_command(),
            "ports": [self.port],
            "labels": {},
        }
        _lay_over(create, await self._configured(self.extra_create_kwargs))
        create["labels"] |= self._labels()
        host_config = self._host_config()
        _lay_over(host_config, await self._configured(self.extra_host_config))
        host_config.setdefault("network_mode", self.network_name)
        if self.cpu_limit is not None:
            period = host_config.setdefault("cpu_period", _CPU_PERIOD_MICROSECONDS)
            host_config.setdefault("cpu_quota", int(self.cpu_limit * period))
        # What a container writes to its log stays small as well, whatever else is asked of the logs.
        host_config.setdefault("log_config", LogConfig(type="json-file", config={"max-size": "5m", "max-file": "2"}))
        # Through the engine's thread: a client that must connect first would hold up the hub.
        create.setdefault("host_config", {}).update(await self.docker("create_host_config", **host_config))
        return await self.docker("create_container", **create)

    async def _configured(self, option: Any) -> dict[str, Any]:
        value = self._eval_if_callable(option)
        if inspect.isawaitable(value):
            value = await value
        rendered: dict[str, Any] = self._render_templates(value)
        return rendered

    def _labels(self) -> dict[str, str]:
        assert self.lease is not None  # noqa: S101 - a container is made for a lease
        return {
            LEASE_LABEL: self.lease.id,
            HUB_LABEL: self.runtime.hub_id,
            USER_LABEL: self.user.name,
            GPUS_LABEL: ",".join(gpu.uuid for gpu in self.lease.gpus),
        }

    def _home_mounts(self) -> list[Any]:
        shown = self.home is not None and self.home.earlier_versions
        return home_mounts(self.runtime.settings.homes, self.user.name, earlier_versions=shown)

    def _host_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "binds": self.volume_binds,
            "mounts": [*self.mount_binds, *self._home_mounts()],
            "links": self.links,
            "init": True,
            "pids_limit": self.pids_limit,
            "shm_size": self.shm_size,
            "cpu_shares": self.cpu_shares,
            # Without swap of its own a session that outgrows its memory ends, and does not grind the server down.
            "mem_limit": self.mem_limit,
            "memswap_limit": self.mem_limit,
            "port_bindings": {} if self.use_internal_ip else {self.port: (self.host_ip or self.engine.address,)},
            # A core dump of a network that died would be as large as the session.
            "ulimits": [Ulimit(name="core", soft=0, hard=0)],
        }
        if self.read_only:
            config |= {"read_only": True, "tmpfs": self._places_in_memory()}
        if self.unprivileged:
            config |= {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
        if self.simulator_state:
            config["binds"][str(Path(self.simulator_state).parent)] = {
                "bind": _SIMULATOR_STATE_IN_CONTAINER,
                "mode": "ro",
            }
        elif self.lease is not None and self.lease.gpus:
            uuids = [gpu.uuid for gpu in self.lease.gpus]
            config["device_requests"] = [DeviceRequest(device_ids=uuids, capabilities=[["gpu"]])]
        return config

    def _places_in_memory(self) -> dict[str, str]:
        # A function for mem_limit may return text such as 4G.
        half = parse_bytes(self.mem_limit) // 2 if self.mem_limit else self.temporary_space
        return {
            # Programs may be run from it: pip and TensorFlow build there.
            "/tmp": f"exec,mode=1777,size={min(self.temporary_space, half)}",  # noqa: S108 - the container's own
            _RUNTIME_IN_IMAGE: f"mode=1777,size={_RUNTIME_SPACE_BYTES}",
        }

    def get_env(self) -> dict[str, str]:
        """Return the environment, with the way to the simulated cards where there are no real ones."""
        env: dict[str, str] = super().get_env() | home.environment(self.home)
        if self.simulator_state:
            env["LD_LIBRARY_PATH"] = _SIMULATOR_IN_IMAGE
            env["IDLHUB_SIMULATOR_STATE"] = f"{_SIMULATOR_STATE_IN_CONTAINER}/{Path(self.simulator_state).name}"
        return env

    # -- while it runs ------------------------------------------------------------------------------------

    async def is_running(self, lease: Lease, *, ask: bool = False) -> bool:
        """Say that our container runs when that was the last heard of it, else ask for it by id; a paused one runs."""
        host = self.host(lease)
        if not isinstance(host, Engine) or not self.object_id:
            return False
        if not ask and host.runs(self.object_id):
            return True
        found = await host.inspect(self.object_id, lease.id)
        return bool(found and found["State"]["Running"])

    async def last_words(self, lease: Lease) -> str:
        """Return the last 50 lines of the container's log."""
        try:
            text = await self.docker("logs", self.object_id, tail=50)
        except (APIError, HostError) as error:
            return f"(no log of lease {lease.id}: {error})"
        return str(text.decode("utf-8", "replace"))

    def clear_state(self) -> None:
        """Forget the container together with the lease."""
        super().clear_state()
        self.object_id = ""


def _safe_name(text: str) -> str:
    return hub_name(text) if text else ""


def _lay_over(base: dict[str, Any], over: dict[str, Any]) -> None:
    """Put `over` on `base`, dict by dict, in place."""
    for key, value in over.items():
        below = base.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            _lay_over(below, value)
        else:
            base[key] = value
