"""`GPUProcessSpawner`: no Docker, for a trial. It isolates nobody."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from jupyterhub.spawner import SimpleLocalProcessSpawner
from traitlets import Unicode

from idl_hub.gpus.leases import Phase
from idl_hub.spawners.gpu import GPUSpawnerMixin
from idl_hub.spawners.host import Change, HostError, Unit
from idl_hub.spawners.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from idl_hub.gpus.leases import Lease


class LocalProcesses:
    """A host whose sessions are processes of this machine, told apart by a variable in their environment.

    Parameters
    ----------
    stop_timeout_seconds
        Time between asking a session to end and killing it.
    """

    def __init__(self, name: str, stop_timeout_seconds: float = 10) -> None:
        self.name = name
        self._stop_timeout_seconds = stop_timeout_seconds

    async def ping(self) -> None:
        """Return at once: this machine answers."""

    async def changes(self) -> AsyncIterator[Change]:
        """Tell nothing: processes are looked at, they do not speak."""
        yield Change("connected")
        await asyncio.get_running_loop().create_future()

    async def units(self) -> tuple[Unit, ...]:
        """List the leases that have a process."""
        return await asyncio.to_thread(self._units)

    def _units(self) -> tuple[Unit, ...]:
        found = {}
        for process, env in _labelled():
            if env.get("IDLHUB_SERVER", self.name) != self.name:
                continue
            gpus = env.get("NVIDIA_VISIBLE_DEVICES") or "void"
            found[env["IDLHUB_LEASE"]] = Unit(
                id=str(process.pid),
                lease_id=env["IDLHUB_LEASE"],
                hub_id=env.get("IDLHUB_HUB", ""),
                running=True,
                gpu_uuids=() if gpus == "void" else tuple(gpus.split(",")),
            )
        return tuple(found.values())

    def runs(self, lease_id: str) -> bool:
        """Whether any process of this lease lives."""
        return any(env["IDLHUB_LEASE"] == lease_id for _, env in _labelled())

    async def remove(self, unit_id: str, lease_id: str) -> None:
        """End all processes of the lease: asked first, then killed."""
        await asyncio.to_thread(self._remove, lease_id)

    def _remove(self, lease_id: str) -> None:
        deadline = time.monotonic() + self._stop_timeout_seconds
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            # Looked up again each time: a dying server may have started a kernel meanwhile.
            processes = [process for process, env in _labelled() if env["IDLHUB_LEASE"] == lease_id]
            for process in processes:
                try:
                    process.send_signal(signal_number)
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(processes, timeout=max(0.5, deadline - time.monotonic()))
            if not self.runs(lease_id):
                return
        raise HostError(f"Processes of lease {lease_id} could not be ended.")

    async def settle(self, lease_id: str) -> None:
        """Nothing is ever under way: a process is there when its start returns."""

    def close(self) -> None:
        """Nothing is held."""


def _labelled() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            env = process.environ()
        except psutil.Error:
            continue
        if "IDLHUB_LEASE" in env:
            yield process, env


class GPUProcessSpawner(GPUSpawnerMixin, SimpleLocalProcessSpawner):
    """Runs each server as a plain process of the hub's own user."""

    simulator_state = Unicode("", config=True, help="State file of the simulated cards; empty with real ones.")
    simulator_library_directory = Unicode(
        "", config=True, help="Folder of the stand-in libnvidia-ml.so.1; empty with real cards."
    )

    first_files = Unicode("", config=True, help="Folder whose files lie in a home from its first start; empty: none.")

    async def launch(self, lease: Lease) -> tuple[str, int]:
        """Start the process."""
        self.say(30, "Starting a process; this trial isolates nobody")
        try:
            address: tuple[str, int] = await SimpleLocalProcessSpawner.start(self)
        except OSError as error:
            raise Refusal(
                f"Your server could not be started: {error}. Tell whoever runs this trial.", "process", 500
            ) from error
        await self.advance(lease, Phase.CREATING, str(self.pid))
        return address

    async def is_running(self, lease: Lease, *, ask: bool = False) -> bool:
        """Whether the server's process lives and is the one of this lease: process ids are used again."""
        return await asyncio.to_thread(_has_lease, self.pid, lease.id)

    async def last_words(self, lease: Lease) -> str:
        """Point to the hub's own log, where processes write."""
        return f"(see the lines of lease {lease.id} above)"

    def get_env(self) -> dict[str, str]:
        """Return the environment, with the way to the simulated cards where there are no real ones."""
        env: dict[str, str] = super().get_env()
        if self.simulator_state:
            env["LD_LIBRARY_PATH"] = self.simulator_library_directory
            env["IDLHUB_SIMULATOR_STATE"] = self.simulator_state
        return env

    def user_env(self, env: dict[str, Any]) -> dict[str, Any]:
        """Give the session a home below the state directory, readable by the hub's user alone."""
        home = Path(self.home_dir)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.first_files:
            for file in Path(self.first_files).glob("*.ipynb"):
                if not (home / file.name).exists():
                    shutil.copy(file, home)
        changed: dict[str, Any] = super().user_env(env)
        return changed


def _has_lease(pid: int, lease_id: str) -> bool:
    if pid <= 0:
        return False
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get("IDLHUB_LEASE") == lease_id
    except psutil.NoSuchProcess:
        return False
    except psutil.Error as error:
        raise HostError(f"Process {pid} cannot be looked at: {error}.") from error
