"""`GPUSpawnerMixin`: a lease before the start, its end after the stop. Knows nothing of Docker."""

from __future__ import annotations

import asyncio
import time
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

from jupyterhub.spawner import Spawner
from jupyterhub.utils import url_path_join
from sqlalchemy.exc import SQLAlchemyError
from traitlets import Integer, default

from idl_hub import subdomains
from idl_hub.db.accounts import SMOKE_TEST
from idl_hub.gpus.line import Ticket, TicketState, positions
from idl_hub.gpus.placement import NoGPU
from idl_hub.homes.words import remainder
from idl_hub.people import WEB
from idl_hub.spawners import last_session, options, reach, refusal
from idl_hub.spawners.host import HostError, UnfitHostError
from idl_hub.spawners.progress import Progress
from idl_hub.spawners.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from idl_hub.gpus.leases import Lease, Phase
    from idl_hub.homes.store import Home
    from idl_hub.spawners.host import Host
    from idl_hub.spawners.last_session import Ended
    from idl_hub.spawners.lost import Notice
    from idl_hub.spawners.runtime import Runtime

_ASK_EVERY_SECONDS = 0.05
_ASK_EVERY_SHARE = 0.05
_LOOK_EVERY_SECONDS = 1.0
_OWN_CLEANUP_SECONDS = 60
_MOST_SERVERS = 5


class GPUSpawnerMixin(Spawner):
    """Put before a spawner class; that class then says how a server runs, this one where and on which GPU.

    The class below gives `launch`, `is_running` and the environment it needs for its kind of GPU access.
    """

    runtime: ClassVar[Runtime]
    """Set once, by the hub's configuration, before the first spawner exists."""

    most_gpus = Integer(1, min=1, max=16, config=True, help="How many GPUs of one server a session may ask for.")

    lease: Lease | None = None
    _progress: Progress | None = None

    # -- given by the class that mixes this in ------------------------------------------------

    async def launch(self, lease: Lease) -> tuple[str, int]:
        """Create and start the server for this lease; return the address at which it will answer."""
        raise NotImplementedError

    async def is_running(self, lease: Lease, *, ask: bool = False) -> bool:
        """Whether the server runs, by id; raises `HostError` when nobody can say.

        With `ask` its host is asked now; else what was last heard of it will do.
        """
        raise NotImplementedError

    async def last_words(self, lease: Lease) -> str:
        """Return the end of the server's log, for the hub's log."""
        raise NotImplementedError

    # -- start ----------------------------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Reserve a place, launch the server there, and return when it answers."""
        self._progress = progress = Progress()
        lease: Lease | None = None
        try:
            while True:  # a server that is unfit is out of service from then on, so this ends
                lease = self.lease = await self._reserve_where_it_answers()
                if address := await self._launch_if_fit(lease):
                    break
            progress.say(60, "JupyterLab is starting")
            await self._wait_until_answering(lease, address)
            await self._is_ready(lease)
        except BaseException as error:
            self.lease = None
            if lease is not None:
                self.runtime.give_up_start(lease, error)
            progress.close()
            if isinstance(error, HostError):
                self.log.error("%s cannot be started: %s", self._log_name, error)  # noqa: TRY400
                raise refusal.host_failed(lease.server if lease else "") from error
            raise
        self.runtime.keeper.claim(lease.id)
        await self._note_ready(lease)
        progress.say(95, "JupyterLab answers; opening it")
        progress.close()
        return address

    async def _launch_if_fit(self, lease: Lease) -> tuple[str, int] | None:
        """Launch; None when this server turned out unfit: its lease is given back, and it gets no more."""
        try:
            return await self.launch(lease)
        except UnfitHostError as error:
            self.log.error("%s is out of service until an admin includes it again: %s", lease.server, error)  # noqa: TRY400
            await self.runtime.out_of_service.begin("server", lease.server, str(error), "hub")
            await self.runtime.events.note(
                "error", f"{lease.server} is out of service: {error}", user=lease.user, server=lease.server
            )
            if self.user.name == SMOKE_TEST:
                raise refusal.unfit_for_a_test(lease.server, error) from error  # it would get the same server again
            self.say(10, f"{lease.server} cannot take your server; looking elsewhere")
            await self.runtime.keeper.end_unused(lease, str(error))
            return None

    async def _note_ready(self, lease: Lease) -> None:
        """Tell line and record; the server runs, so nothing here may fail its start."""
        try:
            await self.runtime.line.ready(self.user.name, self.name, lease.id)
            gpus = ", ".join(f"GPU {gpu.index}" for gpu in lease.gpus) or "no GPU"
            await self.runtime.events.note(
                "start", f"the server runs on {lease.server} with {gpus}", user=self.user.name, lease_id=lease.id
            )
        except Exception:  # a lost line of a record is no reason to stop a server that runs
            self.log.exception("%s runs, but that could not be written down", self._log_name)

    async def _is_ready(self, lease: Lease) -> None:
        if not await self.runtime.leases.ready(lease.id, self.runtime.ends_at(lease)):
            raise refusal.stopped_meanwhile()

    async def advance(self, lease: Lease, phase: Phase, container_id: str | None = None) -> None:
        """Note how far the start is; raise when somebody ended the lease meanwhile, so that nothing starts for it."""
        if not await self.runtime.leases.advance(lease.id, phase, container_id):
            raise refusal.stopped_meanwhile()

    async def _reserve_where_it_answers(self) -> Lease:
        """Reserve; when the server does not answer, nothing was made there yet, so another one is looked for."""
        keeper = self.runtime.keeper
        for _ in range(_MOST_SERVERS):
            lease = await self._reserve()
            try:
                if await keeper.answers(lease.server):
                    return lease
            except BaseException as error:
                self.runtime.give_up_start(lease, error)
                raise
            self.say(10, f"{lease.server} does not answer; looking elsewhere")
            await keeper.end_unused(lease, f"{lease.server} did not answer")
        raise refusal.no_server()

    async def _reserve(self) -> Lease:
        """Return a committed lease, or raise `Refusal` with what the student should know."""
        wanted = self._wanted()
        self.say(5, "Looking for a free GPU" if wanted.gpu_count else "Looking for a place without GPU")
        grace_seconds = self.runtime.settings.spawner.restart_grace_seconds
        if not await self.runtime.ready(grace_seconds):
            raise refusal.no_server()
        if not await self.runtime.keeper.cleaned(self.user.name, self.name, _OWN_CLEANUP_SECONDS):
            raise Refusal("Your earlier server is still being stopped. Try again in a minute.", "still_stopping", 409)
        if why := await self.runtime.lost.why_no_start(self.user.name, self.name):
            raise refusal.left_behind(why, f"{self._pages()}lost")
        if wanted.gpu_count > max(1, self.runtime.fleet.most_gpus()):
            raise Refusal(f"No server has {wanted.gpu_count} GPUs. Ask for fewer.", "options", 400)
        asked_at = time.time()
        found = await self.runtime.reserve(self.user.name, self.name, wanted.gpu_count, self.user_options)
        if isinstance(found, NoGPU):
            raise refusal.no_server()
        if isinstance(found, Ticket) and found.created_at >= asked_at and not self.runtime.keeper.answering:
            # The last server fell silent meanwhile: that is nothing to stand in line for.
            await self.runtime.line.end(found.id, TicketState.LEFT, "no server answered")
            raise refusal.no_server()
        if isinstance(found, Ticket) and self.user.name == SMOKE_TEST:
            # It takes nothing that a student could have, and nobody would come for it later.
            await self.runtime.line.end(found.id, TicketState.LEFT, "a smoke test does not wait")
            raise refusal.nothing_for_a_test(await self.runtime.why_none(wanted.gpu_count))
        if isinstance(found, Ticket):
            raise await self._queued(found)
        for gpu in found.gpus:
            simulated = " (simulated)" if self.runtime.fleet.simulated else ""
            self.say(15, f"GPU {gpu.index} of {found.server} is yours: {gpu.name}{simulated}: {found.reason}")
        return found

    def _wanted(self) -> options.Options:
        try:
            return options.parse(self.user_options, self.most_gpus)
        except options.OptionsError as error:
            raise Refusal(str(error), "options", 400) from error

    async def _queued(self, ticket: Ticket) -> Refusal:
        """Say that nothing is free, which place in the line that gave, and the ways on from here."""
        position = positions(await self.runtime.line.live()).get(ticket.id, 1)
        await self.runtime.events.note("ticket", f"took place {position} in the line", user=ticket.user)
        message = (
            f"{await self.runtime.why_none(ticket.gpu_count)} You are number {position} in line: your server starts "
            "by itself when it is your turn, even when this page is closed."
        )
        line = escape(f"{self._pages()}line")
        without = escape(url_path_join(self.hub.base_url, "spawn", self.user.escaped_name) + "?opt-gpu=none")
        links = (
            # The mark lets the page bring the student to the line by itself.
            f'<a class="alert-link" data-idl-line href="{line}">See the line</a> or '
            f'<a class="alert-link" href="{without}">start without a GPU</a>.'
        )
        return Refusal(message, "queued", 409, message_html=f"{escape(message)} {links}")

    def _pages(self) -> str:
        """Return where people's browsers reach the GPU pages."""
        return subdomains.service_url(self.runtime.settings.hub.subdomain_host, WEB)

    async def _wait_until_answering(self, lease: Lease, address: tuple[str, int]) -> None:
        """Return when ``GET {base_url}api`` answers."""
        url = f"http://{address[0]}:{address[1]}{url_path_join(self.server.base_url, 'api')}"
        began = time.monotonic()
        look_at = began + _LOOK_EVERY_SECONDS
        async with reach.client() as client:
            while not await reach.answers(client, url):  # JupyterHub ends it after start_timeout
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + _LOOK_EVERY_SECONDS
                    await self.check_alive(lease)
                # Asked less often the longer it takes: a class that starts at once needs its cores for starting.
                await asyncio.sleep(max(_ASK_EVERY_SECONDS, _ASK_EVERY_SHARE * (time.monotonic() - began)))

    async def check_alive(self, lease: Lease) -> None:
        """Raise what the student should know when the server has ended; say nothing when nobody can tell."""
        try:
            running = await self.is_running(lease, ask=True)
        except HostError:
            return  # unknown; the start's own deadline decides
        if not running:
            self.log.error("%s ended while starting:\n%s", self._log_name, await self.last_words(lease))
            raise Refusal(
                "Your server ended while it was starting. Try 'Start without my packages' on the start page; "
                "if it happens again, tell the course's admins.",
                "died",
                500,
            )

    # -- while it runs ----------------------------------------------------------------------------

    async def poll(self) -> int | None:
        """Return None while the server runs or nobody can say, else 0. Never raises.

        While a hub starts, JupyterHub stops what does not answer: so it waits until the host or the server answers,
        or the session was given up.
        """
        lease = self.lease
        if lease is None:
            return 0
        deadline = time.monotonic() + self.runtime.settings.spawner.restart_grace_seconds
        while True:
            if self.runtime.lost.given_up(lease.id):
                self.lease = None  # the keeper removes what it left, when its server is back
                return 0
            if self.runtime.keeper.silence(lease.server) is None:
                try:
                    return None if await self.is_running(lease) else self._ended(lease)
                except HostError as error:
                    self.log.warning("%s: whether it runs is unknown: %s", self._log_name, error)
                except Exception:  # whatever it is, it does not prove that the server ended
                    self.log.exception("%s: poll failed; taken as running", self._log_name)
            if not self._check_pending or (time.monotonic() >= deadline and await self._answers_by_itself()):
                return None
            await asyncio.sleep(0.5)

    async def _answers_by_itself(self) -> bool:
        """Whether the server is reached, whatever its host says."""
        async with reach.client() as client:
            return await reach.answers(client, url_path_join(self.server.url, "api"))

    @property
    def notice(self) -> Notice | None:
        """What the home page says when the session's server does not answer."""
        return self.runtime.lost.notice(self.lease)

    def _ended(self, lease: Lease) -> int:
        self.lease = None
        self.runtime.keeper.give_back_soon(lease, last_session.ENDED_BY_ITSELF)
        return 0

    async def progress(self) -> AsyncIterator[dict[str, int | str]]:
        """Tell what is going on, from the beginning, to each viewer."""
        if self._progress is not None:
            async for event in self._progress.events():
                yield event

    def say(self, percent: int, message: str) -> None:
        """Tell the student, in plain words."""
        if self._progress is not None:
            self._progress.say(percent, message)

    # -- stop ---------------------------------------------------------------------------------------

    async def stop(self, now: bool = False) -> None:
        """End the server and free its GPUs; when its host does not answer, the GPUs stay held until it does."""
        lease, self.lease = self.lease, None
        if lease is not None:
            await asyncio.shield(self.runtime.keeper.give_back_soon(lease, last_session.STOPPED))

    # -- state ----------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Return what a restarted hub needs: which lease is ours."""
        state = super().get_state()
        if self.lease is not None:
            state["lease_id"] = self.lease.id
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Find the lease again after a restart of the hub; an ended one is none."""
        super().load_state(state)
        if "lease_id" in state:
            self.lease = self.runtime.lease_at_start(state["lease_id"])

    def clear_state(self) -> None:
        """Forget the lease; who holds what is the keeper's business."""
        super().clear_state()
        self.lease = None

    # -- what the server is told ------------------------------------------------------------------------

    def get_env(self) -> dict[str, str]:
        """Return the environment: exactly the leased GPUs are visible, and the course's settings."""
        env: dict[str, str] = super().get_env()
        env |= self.runtime.settings.spawner.environment
        lease = self.lease
        if lease is not None:
            env["IDLHUB_LEASE"] = lease.id
            env["IDLHUB_HUB"] = self.runtime.hub_id
            env["IDLHUB_SERVER"] = lease.server
            # An image may bring NVIDIA_VISIBLE_DEVICES=all; said here, it cannot show every card.
            env["NVIDIA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in lease.gpus) or "void"
        if not self._wanted().my_packages:
            env["IDLHUB_WITHOUT_MY_PACKAGES"] = "1"
        if self.runtime.settings.trial:
            env["IDLHUB_TRIAL_EXERCISE"] = "1"
        return env

    def get_args(self) -> list[str]:
        """Return the server's arguments: one without GPU ends itself when nothing happens in it.

        Jupyter Server's own timers do that: they know kernels and terminals, which the hub does not. Sessions with
        a GPU are looked after by the hub, which knows whether the GPU computes.
        """
        args: list[str] = super().get_args()
        minutes = self.runtime.settings.sessions.idle_minutes_without_gpu
        if minutes is None or (self.lease is not None and self.lease.gpus):
            return args
        seconds = max(1, round(minutes * 60))
        return [
            *args,
            f"--ServerApp.shutdown_no_activity_timeout={seconds}",
            f"--MappingKernelManager.cull_idle_timeout={seconds}",
            f"--TerminalManager.cull_inactive_timeout={seconds}",
        ]

    @default("apply_user_options")
    def _options_are_read_at_start(self) -> Any:
        # Without a function here JupyterHub warns that nobody reads the options; `_wanted` does.
        return lambda _spawner, _options: None

    # -- what the student may choose ----------------------------------------------------------------------

    async def get_options_form(self) -> str:
        """Render the choices with what is free now."""
        await self.apply_group_overrides()  # JupyterHub does this only when the server starts
        held = await self.runtime.holders()
        return options.form(
            self.runtime.fleet.standings(held),
            simulated=self.runtime.fleet.simulated,
            last=self.user_options or self.orm_spawner.user_options or {},
            most_gpus=min(self.most_gpus, max(1, self.runtime.fleet.most_gpus())),
            waiting=len(positions(await self.runtime.line.live())),
            home=await self.look_at_home(),
        )

    async def look_at_home(self) -> Home | None:
        """Return the student's home, for a page; None where homes are Docker volumes, or it does not answer soon."""
        homes = self.runtime.homes
        return await homes.look(self.user.name) if homes else None

    async def last_session(self) -> Ended | None:
        """Return how the last session ended, for the hub's pages; None where that is no news, or nobody can tell."""
        try:
            return await self.runtime.database.run(
                lambda session: last_session.find(session, self.user.name, self.name, time.time())
            )
        except SQLAlchemyError:
            self.log.exception("%s: how the last session ended could not be read", self._log_name)
            return None

    async def room_in_home(self) -> str:
        """Say for the home page how much room there is in the student's home; nothing where that is not known."""
        home = await self.look_at_home()
        return remainder(home) if home else ""

    def options_from_form(self, form: dict[str, list[str]]) -> dict[str, str]:
        """Check the submitted form."""
        try:
            return options.from_form(form, self.most_gpus)
        except options.OptionsError as error:
            raise Refusal(str(error), "options", 400) from error

    def options_from_query(self, query: dict[str, list[str]]) -> dict[str, str]:
        """Check options in the address, such as ``?opt-gpu=none``."""
        return self.options_from_form(query)

    def host(self, lease: Lease) -> Host:
        """Return where the lease's server runs.

        Raises
        ------
        HostError
            When that server is not in the settings any more.
        """
        host = self.runtime.keeper.hosts.get(lease.server)
        if host is None:
            raise HostError(f"{lease.server} is not among the servers in the settings.")
        return host
