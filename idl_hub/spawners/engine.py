"""One Docker engine: its own client, its own few threads, a deadline on every call."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.tls import TLSConfig
from requests.exceptions import RequestException

from idl_hub.spawners import engine_events, engine_pull
from idl_hub.spawners.host import Change, HostError, Unit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from idl_hub.settings_servers import EngineSettings

log = logging.getLogger("idl_hub.engine")

LEASE_LABEL = "idlhub.lease"
HUB_LABEL = "idlhub.hub"
USER_LABEL = "idlhub.user"
GPUS_LABEL = "idlhub.gpus"

_RUNNING_STATES = frozenset({"running", "paused", "restarting"})
_GONE_SECONDS = 60
_PING_SECONDS = 5
_LOOK_SECONDS = 20
_KILLED = 137


class _Client(docker.APIClient):
    """Proxies and certificate bundles of the environment are for the internet, not for our engines.

    Said in the class, since the first request is sent while a client is being made.
    """

    trust_env = property(lambda _: False, lambda *_: None)


class Engine:
    """A host whose sessions are containers.

    Parameters
    ----------
    name
        The server's name, as leases and people know it.
    engine
        Address of the engine, with certificates when it is reached over a network.
    address
        The server's address, at which ports of its containers are published.
    threads
        Calls that may run at the same time; more wait for one to end.
    timeout_seconds
        Deadline of one call.
    stop_timeout_seconds
        Time between asking a container to end and killing it.
    """

    def __init__(
        self,
        name: str,
        engine: EngineSettings,
        address: str = "127.0.0.1",
        *,
        threads: int = 8,
        timeout_seconds: float = 60,
        stop_timeout_seconds: int = 10,
    ) -> None:
        self.name = name
        self.engine = engine
        self.address = address
        self._threads = threads
        self._timeout_seconds = timeout_seconds
        self._stop_timeout_seconds = stop_timeout_seconds
        self._look_seconds = min(timeout_seconds, _LOOK_SECONDS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"engine-{name}")
        self._connecting = threading.Lock()
        self._client: Any = None
        # Looks have a way of their own: whether an engine answers must not depend on who else waits for it.
        self._look_pool = ThreadPoolExecutor(1, thread_name_prefix=f"look-{name}")
        self._running: set[str] = set()
        self._under_way: dict[str, set[asyncio.Future[Any]]] = {}

    @property
    def client(self) -> Any:
        """The docker-py client, connected at first use; blocks, so never use it on the loop before `call`."""
        with self._connecting:
            if self._client is None:
                self._client = self._connect(self._timeout_seconds, self._threads)
            return self._client

    def _connect(self, timeout_seconds: float, connections: int) -> Any:
        return _Client(
            base_url=self.engine.url,
            version="auto",
            timeout=math.ceil(timeout_seconds),  # docker-py's own type is a whole number
            max_pool_size=connections,
            tls=_tls(self.engine),
        )

    def _forget_connections(self) -> None:
        """Have new connections made: those of before a silence may be dead without knowing it."""
        # The loop runs this, and a new connection may hang for a minute; one that is being made is none of those.
        if not self._connecting.acquire(blocking=False):
            return
        client, self._client = self._client, None
        self._connecting.release()
        if client is not None:
            client.close()

    async def call(self, method: str, *args: Any, lease_id: str = "", timeout_seconds: float = 0, **kwargs: Any) -> Any:
        """Call a method of docker-py's low-level client in a thread of this engine.

        A caller that is cancelled leaves the call running; `settle` waits for it.

        Parameters
        ----------
        timeout_seconds
            Deadline, when it is longer than the engine's usual one.

        Raises
        ------
        HostError
            No answer in time, no connection, or HTTP 500 and above: nobody knows what happened.
        docker.errors.APIError
            The engine refused (HTTP 4xx).
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, partial(self._do, method, *args, **kwargs))
        if lease_id:
            calls = self._under_way.setdefault(lease_id, set())
            calls.add(future)
            future.add_done_callback(partial(self._done, lease_id))
        # The extra time lets the client's own timeout speak first.
        deadline = max(timeout_seconds, self._timeout_seconds) + 5
        try:
            # Not wait_for: Python 3.11's can lose a cancellation that comes together with the answer.
            async with asyncio.timeout(deadline):
                return await asyncio.shield(future)
        except TimeoutError:
            future.add_done_callback(_swallow)
            raise HostError(f"The Docker engine of {self.name} gave no answer within {deadline:.0f} s.") from None
        except asyncio.CancelledError:
            future.add_done_callback(_swallow)
            raise

    def _do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self.client, method)(*args, **kwargs)
        except APIError as error:
            if error.status_code is not None and error.status_code < 500:
                raise
            raise HostError(f"The Docker engine of {self.name} failed: {error.explanation or error}.") from error
        except (DockerException, RequestException, OSError) as error:
            raise HostError(f"The Docker engine of {self.name} does not answer ({error}).") from error

    def _done(self, lease_id: str, future: asyncio.Future[Any]) -> None:
        calls = self._under_way.get(lease_id, set())
        calls.discard(future)
        if not calls:
            self._under_way.pop(lease_id, None)

    def pull(self, reference: str, silence_seconds: float) -> AsyncGenerator[Mapping[str, Any], None]:
        """Pull an image and yield what the engine tells meanwhile; see `engine_pull.pull`."""
        return engine_pull.pull(self.name, self.engine, reference, silence_seconds)

    async def settle(self, lease_id: str) -> None:
        """Wait until no call made for this lease is under way."""
        calls = self._under_way.get(lease_id)
        if not calls:
            return
        _, unfinished = await asyncio.wait(calls, timeout=2 * self._timeout_seconds)
        if unfinished:
            raise HostError(f"The Docker engine of {self.name} is still busy with an earlier request.")

    async def ping(self) -> None:
        """Return when the engine answers; raises `HostError` after a few seconds."""
        await engine_events.ping(self.name, self.engine, _PING_SECONDS)

    async def changes(self) -> AsyncIterator[Change]:
        """Tell when our containers start, end or run out of memory, until the connection is lost."""
        async for change in engine_events.follow(self.name, self.engine, LEASE_LABEL):
            if change.kind == "start":
                self._running.add(change.unit_id)
            elif change.kind == "die":
                self._running.discard(change.unit_id)
            yield change

    def runs(self, container_id: str) -> bool:
        """Whether the container ran when we last heard of it; asks nobody. False when that is not known."""
        return container_id in self._running

    async def units(self) -> tuple[Unit, ...]:
        """List every container with the label of a lease."""
        loop = asyncio.get_running_loop()
        looking = loop.run_in_executor(self._look_pool, self._look)
        try:
            async with asyncio.timeout(self._look_seconds + 5):
                units = await asyncio.shield(looking)
        except TimeoutError:
            looking.add_done_callback(_swallow)
            self._forget_connections()
            raise HostError(f"The Docker engine of {self.name} does not list its containers in time.") from None
        except asyncio.CancelledError:
            looking.add_done_callback(_swallow)
            raise
        except HostError:
            self._forget_connections()
            raise
        self._running = {unit.id for unit in units if unit.running}
        return units

    def _look(self) -> tuple[Unit, ...]:
        """List our containers, with the cause of death of those that ended."""
        try:
            with closing(self._connect(self._look_seconds, 1)) as client:
                listed = client.containers(all=True, filters={"label": LEASE_LABEL})
                return tuple(
                    _unit(container, partial(client.inspect_container, container["Id"])) for container in listed
                )
        except APIError as error:
            raise HostError(f"The Docker engine of {self.name} does not list its containers: {error}.") from error
        except (DockerException, RequestException, OSError) as error:
            raise HostError(f"The Docker engine of {self.name} does not answer ({error}).") from error

    async def inspect(self, container_id: str, lease_id: str) -> Mapping[str, Any] | None:
        """Return what the engine says of a container of this lease; None when it is gone or not of this lease."""
        try:
            found = await self.call("inspect_container", container_id)
        except NotFound:
            return None
        except APIError as error:
            raise HostError(f"The Docker engine of {self.name} does not show {container_id[:12]}: {error}.") from error
        labels = (found.get("Config") or {}).get("Labels") or {}
        if labels.get(LEASE_LABEL) != lease_id:
            log.error("%s: container %s does not belong to lease %s", self.name, container_id[:12], lease_id)
            return None
        return dict(found)

    async def remove(self, unit_id: str, lease_id: str) -> None:
        """Stop and remove a container of this lease, and return when it is gone."""
        found = await self.inspect(unit_id, lease_id)
        if found is None:
            return
        try:
            if found["State"].get("Running"):
                grace = self._stop_timeout_seconds
                await self.call("stop", unit_id, timeout=grace, timeout_seconds=grace + self._timeout_seconds)
            await self.call("remove_container", unit_id, v=True, force=True)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # 409: somebody else is removing it already
                raise HostError(f"The Docker engine of {self.name} does not remove {unit_id[:12]}: {error}.") from error
        await self._wait_gone(unit_id, lease_id)

    async def _wait_gone(self, unit_id: str, lease_id: str) -> None:
        deadline = time.monotonic() + _GONE_SECONDS
        while await self.inspect(unit_id, lease_id) is not None:
            if time.monotonic() > deadline:
                raise HostError(f"{self.name}: container {unit_id[:12]} is still there after {_GONE_SECONDS} s.")
            await asyncio.sleep(0.2)

    def close(self) -> None:
        """Let go of the threads and the connection; calls under way end on their own."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._look_pool.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()


def _tls(engine: EngineSettings) -> TLSConfig | bool:
    if engine.ca_file is None:
        return False
    certificate = (str(engine.certificate_file), str(engine.key_file))
    return TLSConfig(client_cert=certificate, ca_cert=str(engine.ca_file), verify=True)


def _unit(container: Mapping[str, Any], inspect: Callable[[], Mapping[str, Any]]) -> Unit:
    labels = container.get("Labels") or {}
    running = container.get("State") in _RUNNING_STATES
    return Unit(
        id=container["Id"],
        lease_id=labels.get(LEASE_LABEL, ""),
        hub_id=labels.get(HUB_LABEL, ""),
        running=running,
        gpu_uuids=tuple(filter(None, labels.get(GPUS_LABEL, "").split(","))),
        ending="" if running else _ending(inspect),
    )


def _ending(inspect: Callable[[], Mapping[str, Any]]) -> str:
    """Say how a container ended, for the person whose work ran in it."""
    try:
        found = inspect()
    except NotFound:
        return "its container is gone"
    state, memory_bytes = found["State"], (found.get("HostConfig") or {}).get("Memory") or 0
    # Engines also mark a container of which only a part was killed, and which then ended in its own way.
    if state.get("OOMKilled") and state.get("ExitCode") == _KILLED:
        of = f"{memory_bytes / 2**30:.3g} of {memory_bytes / 2**30:.3g} GB" if memory_bytes else "all"
        return f"it was killed because it used {of} of memory"
    if state.get("Status") == "created":
        return "its container was never started"
    code = state.get("ExitCode")
    if state.get("Error"):
        return f"its container could not run: {state['Error']}"
    return (
        f"its container was killed (exit code {code})" if code == _KILLED else f"its container ended (exit code {code})"
    )


def _swallow(future: asyncio.Future[Any]) -> None:
    """Take note of a late result or error that nobody waits for any more."""
    if not future.cancelled() and future.exception() is not None:
        log.info("A call that nobody waits for any more failed: %s", future.exception())
