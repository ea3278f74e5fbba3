"""Makes a real hub die with SIGKILL at a named step; a test's configuration calls `arm` after the shipped one.

The step's name stands in a file. It is removed before the hub dies, so that the next hub lives.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTING = (
    "before a GPU is reserved",
    "while the lease is being committed",
    "after the lease is committed",
    "before the container is created",
    "after the container is created",
    "after the container's id is noted",
    "after the container is started",
    "before the lease says running",
    "after the lease says running",
    "after the spawner's start returned",
    "after the hub noted the server",
    "before the proxy knows the server",
    "after the proxy knows the server",
)
STOPPING = (
    "before the stop begins",
    "after the lease says stopping",
    "before the container is stopped",
    "after the container is stopped",
    "after the container is removed",
    "while the lease's end is being committed",
    "after the lease has ended",
    "after the spawner's stop returned",
)

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Steps:
    """Which step to die at stands in `note`."""

    note: Path

    def reach(self, step: str) -> None:
        """Die here, if this is the step."""
        if self.note.exists() and self.note.read_text(encoding="utf-8") == step:
            self.note.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def arm(note: Path) -> None:
    """Put every step into the classes of the hub."""
    from jupyterhub.proxy import Proxy
    from jupyterhub.user import User

    from idl_hub.gpus.leases import Leases
    from idl_hub.gpus.line import Line
    from idl_hub.spawners.engine import Engine
    from idl_hub.spawners.gpu import GPUSpawnerMixin
    from idl_hub.spawners.keeper import Keeper

    steps = Steps(note)

    def calls(method: str) -> Callable[[Arguments], bool]:
        return lambda given: given["method"] == method

    def to(phase: str) -> Callable[[Arguments], bool]:
        return lambda given: str(given["phase"]) == phase

    around = functools.partial(_around, steps)
    around(Line, "acquire", "before a GPU is reserved", "after the lease is committed")
    around(Leases, "end", "", "after the lease has ended")
    around(Leases, "advance", "", "after the container's id is noted", to("creating"))
    around(Leases, "ready", "before the lease says running", "after the lease says running")
    around(Leases, "advance", "", "after the lease says stopping", to("stopping"))
    create, start, stop, remove = map(calls, ("create_container", "start", "stop", "remove_container"))
    around(Engine, "_do", "before the container is created", "after the container is created", create)
    around(Engine, "_do", "", "after the container is started", start)
    around(Engine, "_do", "before the container is stopped", "after the container is stopped", stop)
    around(Engine, "_do", "", "after the container is removed", remove)
    around(GPUSpawnerMixin, "start", "", "after the spawner's start returned")
    around(GPUSpawnerMixin, "stop", "", "after the spawner's stop returned")
    around(User, "_wait_up", "after the hub noted the server", "")
    around(Proxy, "add_user", "before the proxy knows the server", "after the proxy knows the server")
    around(Keeper, "_give_back", "before the stop begins", "")
    _at_commits(steps, GPUSpawnerMixin.runtime.database.engine)


def _around(
    steps: Steps,
    owner: type,
    name: str,
    before: str,
    after: str,
    when: Callable[[Arguments], bool] = lambda given: True,
) -> None:
    """Reach one step before and one after each call of a method that `when` picks."""
    inner = getattr(owner, name)
    signature = inspect.signature(inner)

    def picked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return when(signature.bind(*args, **kwargs).arguments)

    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def outer(*args: Any, **kwargs: Any) -> Any:
            if picked(args, kwargs):
                steps.reach(before)
            result = await inner(*args, **kwargs)
            if picked(args, kwargs):
                steps.reach(after)
            return result
    else:

        @functools.wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> Any:
            if picked(args, kwargs):
                steps.reach(before)
            result = inner(*args, **kwargs)
            if picked(args, kwargs):
                steps.reach(after)
            return result

    setattr(owner, name, outer)


def _at_commits(steps: Steps, engine: Any) -> None:
    """Reach a step between the writing of a lease, or of its end, and the commit."""
    from sqlalchemy import event

    @event.listens_for(engine, "before_cursor_execute")
    def note_writing(connection: Any, cursor: object, statement: str, *more: object) -> None:
        words = statement.split()
        connection.info.setdefault("tables written", set()).add(" ".join(words[:3]))

    @event.listens_for(engine, "commit")
    def committing(connection: Any) -> None:
        written = connection.info.pop("tables written", set())
        if "INSERT INTO lease" in written:
            steps.reach("while the lease is being committed")
        if any(write.startswith("UPDATE lease_gpu") for write in written):
            steps.reach("while the lease's end is being committed")
