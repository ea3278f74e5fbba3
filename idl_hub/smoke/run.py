"""The stages of a smoke test, one after another, each timed; and the removal of everything at the end."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from idl_hub.db.accounts import SMOKE_TEST
from idl_hub.smoke import work
from idl_hub.smoke.failure import NotNowError, SmokeError
from idl_hub.smoke.kernel import open_kernel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from idl_hub.gpus.leases import Lease
    from idl_hub.smoke.kernel import Kernel
    from idl_hub.smoke.site import Site
    from idl_hub.smoke.traces import Traces

_GONE_SECONDS = 120.0
_KERNEL_SECONDS = 60.0
_TRAIN_SECONDS = 300.0


@dataclass(slots=True)
class Stage:
    """A part of the test."""

    name: str
    seconds: float
    result: str


@dataclass(slots=True)
class Report:
    """What a test did, for one server."""

    server: str = ""
    stages: list[Stage] = field(default_factory=list)
    failure: str = ""
    """Why it failed, in words; empty when it did not."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be tried.

    Attributes
    ----------
    server
        On which server; empty: where the hub puts it.
    gpus
        0 for a session without GPU, else 1.
    real
        Whether the GPUs are real ones, so that TensorFlow must see them.
    start_seconds
        How long a start may take.
    """

    server: str = ""
    gpus: int = 1
    real: bool = True
    train: bool = True
    start_seconds: float = 300.0


class SmokeTest:
    """One test of one server.

    Parameters
    ----------
    tell
        Called with what is going on, for who waits.
    """

    def __init__(self, site: Site, traces: Traces, plan: Plan, tell: Callable[[str], None]) -> None:
        self._site = site
        self._traces = traces
        self._plan = plan
        self._tell = tell
        self.report = Report(plan.server)

    async def run(self) -> Report:
        """Make the test, and remove everything whatever happens.

        Raises
        ------
        NotNowError
            No GPU is free for a test.
        SmokeError
            An earlier test could not be removed, or this one: it says what is left.
        """
        await self._remove_leftovers()
        try:
            await self._try()
        except NotNowError:
            raise
        except SmokeError as error:
            self.report.failure = str(error)
        finally:
            # Also when it is cancelled: Ctrl-C ends the test, not the tidying up.
            async with self._stage("tidy up") as stage:
                await remove_everything(self._site, self._traces)
                stage.result = "server, account and home are gone"
        return self.report

    async def _remove_leftovers(self) -> None:
        user, lease, home = await self._site.user(), await self._traces.lease(), await self._traces.home_is_there()
        if user is None and lease is None and not home:
            return
        async with self._stage("leftovers") as stage:
            await remove_everything(self._site, self._traces)
            stage.result = "removed what an interrupted test had left"

    async def _try(self) -> None:
        async with self._stage("account") as stage:
            await self._site.create()
            stage.result = f"{SMOKE_TEST} is made, through {self._site.server.split('/user/')[0]}"
        async with self._stage("server") as stage:
            lease = await self._start()
            indices = ", ".join(f"GPU {gpu.index}" for gpu in lease.gpus) or "no GPU"
            stage.result = f"ready on {lease.server}, {indices}"
        async with self._stage("kernel") as stage:
            kernel = await open_kernel(self._site)
            await kernel.run("print('hello')", _KERNEL_SECONDS)
            stage.result = "a Python kernel answers over the websocket"
        if lease.gpus:
            async with self._stage("GPU") as stage:
                stage.result = await self._look_at_gpus(kernel, lease)
        if self._plan.train:
            async with self._stage("training") as stage:
                stage.result = await self._train(kernel, lease)
        async with self._stage("home") as stage:
            stage.result = await self._save(kernel)

    async def _start(self) -> Lease:
        options = {"gpu": "one" if self._plan.gpus else "none"}
        if self._plan.server:
            options["server"] = self._plan.server
        await self._site.start(options, self._plan.start_seconds, self._tell)
        lease = await self._traces.lease()
        if lease is None:
            raise SmokeError("The server is ready, but the hub has no lease for it. Tell who develops idl_hub.")
        if self._plan.server not in ("", lease.server):
            raise SmokeError(f"The server was to start on {self._plan.server}, and started on {lease.server}.")
        self.report.server = lease.server
        return lease

    async def _look_at_gpus(self, kernel: Kernel, lease: Lease) -> str:
        seen = work.gpus_in(await kernel.run(work.SEE_GPUS, _KERNEL_SECONDS))
        work.check_gpus(seen, tuple(gpu.uuid for gpu in lease.gpus))
        return f"the container sees {', '.join(seen)} and no other"

    async def _train(self, kernel: Kernel, lease: Lease) -> str:
        done = work.training_in(await kernel.run(work.TRAIN, _TRAIN_SECONDS))
        work.check_training(done, gpus=len(lease.gpus) if self._plan.real else 0)
        where = f"{done.gpus} GPU" if done.gpus else "the processor"
        simulated = "" if self._plan.real or not lease.gpus else " (the GPU is simulated)"
        return f"TensorFlow {done.tensorflow} trained on {where}{simulated}, loss {done.losses[-1]:.2f}"

    async def _save(self, kernel: Kernel) -> str:
        text = secrets.token_hex(16)
        await kernel.run(work.save(text), _KERNEL_SECONDS)
        found = await self._traces.saved()
        if found is None:
            return "a file was saved"
        if found != text:
            raise SmokeError(f"The file in the home does not hold what was saved a moment ago, but {found[:40]!r}.")
        return "a file was saved, and is there on the hub's machine"

    @asynccontextmanager
    async def _stage(self, name: str) -> AsyncIterator[Stage]:
        stage = Stage(name, 0.0, "")
        self.report.stages.append(stage)
        self._tell(f"{name} ...")
        began = time.monotonic()
        try:
            yield stage
        except NotNowError:
            stage.result = "no GPU is free"
            raise
        except SmokeError:
            stage.result = "FAILED"
            raise
        except asyncio.CancelledError:
            stage.result = "interrupted"
            raise
        finally:
            stage.seconds = time.monotonic() - began


async def remove_everything(site: Site, traces: Traces) -> None:
    """Stop the test's server, delete its account, wait for its GPU to be free, and remove its home.

    What was written down of it stays: its ended lease, its events.

    Raises
    ------
    SmokeError
        Something is left; the message says what.
    """
    await site.stop(_GONE_SECONDS)
    await site.delete()
    await traces.wait_ended(_GONE_SECONDS)
    await traces.remove_home()
