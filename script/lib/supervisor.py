"""Runs proxy, GPU pages and hub in the foreground: starts them, brings back what dies, leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from script.lib.commands import end_with_parent
from script.lib.console import Console, SetupError, Step
from script.lib.places import write_private

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OLD_LOGS = 3
_STOP_SECONDS = 20.0
_QUICK_SECONDS = 60.0
_QUICK_DEATHS = 5
_POLL_SECONDS = 0.2


def _end_with_supervisor() -> None:
    end_with_parent(signal.SIGTERM)


@dataclass
class Service:
    """A program that is kept running in a process group of its own."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    cwd: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    quick_deaths: int = 0
    next_start: float = 0.0
    _offset: int = field(default=0, repr=False)

    def start(self) -> None:
        """Start it, its output going to its log."""
        with self.log.open("ab") as log:
            self._offset = log.tell()
            self.process = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_supervisor,  # noqa: PLW1509 - only one system call between fork and exec
            )
        self.started = time.monotonic()

    def is_running(self) -> bool:
        """Return whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def note_death(self) -> None:
        """Count a death and set when to start again: 1, 2, 4, ... seconds later while deaths are quick."""
        lived = time.monotonic() - self.started
        self.quick_deaths = self.quick_deaths + 1 if lived < _QUICK_SECONDS else 1
        self.next_start = time.monotonic() + 2.0 ** (self.quick_deaths - 1)

    def stop(self, deadline_seconds: float = _STOP_SECONDS) -> None:
        """End it and all of its process group: asked first, then killed at the deadline."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(deadline_seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self, lines: int = 15) -> str:
        """Return the last lines it printed since it was started."""
        with self.log.open("rb") as log:
            log.seek(self._offset)
            return "\n".join(log.read()[-20000:].decode(errors="replace").splitlines()[-lines:])


def rotate(log: Path) -> None:
    """Move a log of an earlier run to .1, that to .2, and so on; the oldest goes."""
    for number in range(_OLD_LOGS, 0, -1):
        older = log if number == 1 else log.with_name(f"{log.name}.{number - 1}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number}"))


def answers(url: str, token: str = "") -> bool:
    """Return whether a GET is answered with success."""
    request = urllib.request.Request(url, headers={"Authorization": f"token {token}"} if token else {})  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def end_leftovers(record: Path) -> None:
    """End hub, pages and proxy of a supervisor that was killed; the kernel has asked them to end already."""
    try:
        processes = json.loads(record.read_text())["processes"]
    except (OSError, ValueError, KeyError):
        return
    deadline = time.monotonic() + _STOP_SECONDS
    for known in processes:
        while started_ticks(known["pid"]) == known["started_ticks"]:
            late = time.monotonic() > deadline
            os.kill(known["pid"], signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(_POLL_SECONDS)  # not our child: there is nothing to wait on
    record.unlink(missing_ok=True)


def started_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, which tells it from a later one of its id."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state == "Z" else int(fields[18])


class Supervisor:
    """Owns the services from their start to their end."""

    def __init__(self, console: Console, record: Path) -> None:
        self._console = console
        self._record = record
        self._services: list[Service] = []
        self._facts: dict[str, object] = {}
        self.stopping = threading.Event()

    def watch_signals(self) -> None:
        """Let Ctrl-C, SIGTERM and a closed terminal end the services in order."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.stopping.set())

    def start(self, service: Service, step: Step, url: str, token: str, deadline_seconds: float) -> None:
        """Start a service and return when its address answers.

        Raises
        ------
        SetupError
            When it dies or does not answer in time, with the last lines of its log.
        KeyboardInterrupt
            When it is to be stopped meanwhile.
        """
        rotate(service.log)
        self._services.append(service)
        service.start()
        self.write_record()
        deadline = time.monotonic() + deadline_seconds
        while not answers(url, token):
            step.say((service.tail(1).splitlines() or [""])[-1])
            if self.stopping.is_set():
                raise KeyboardInterrupt
            if not service.is_running() or time.monotonic() > deadline:
                raise SetupError(
                    f"The {service.name} "
                    + ("ended at once." if not service.is_running() else f"did not answer at {url} in time."),
                    f"The cause should stand in these last lines; all of them are in {service.log}.",
                    service.tail(),
                )
            self.stopping.wait(_POLL_SECONDS)

    def write_record(self, **facts: object) -> None:
        """Write process ids, and facts such as addresses, for tests and for the next start."""
        self._facts.update(facts)
        processes = [
            {"name": service.name, "pid": service.process.pid, "started_ticks": started_ticks(service.process.pid)}
            for service in self._services
            if service.process is not None
        ]
        content = {"pid": os.getpid(), "processes": processes, **self._facts}
        write_private(self._record, json.dumps(content, indent=2) + "\n")

    def run(self) -> int:
        """Keep the services running until asked to stop; return the exit status."""
        while not self.stopping.wait(_POLL_SECONDS):
            for service in self._services:
                if service.is_running():
                    continue
                if not self._bring_back(service):
                    return 1
        return 0

    def _bring_back(self, service: Service) -> bool:
        if service.process is not None:
            service.note_death()
            code = service.process.returncode
            self._console.line(f"The {service.name} ended unexpectedly ({code}). Its last lines ({service.log}):")
            self._console.line("\n".join(f"    | {line}" for line in service.tail().splitlines()))
            service.process = None
            if service.quick_deaths >= _QUICK_DEATHS:
                self._console.line(
                    f"FAILED: The {service.name} ended {_QUICK_DEATHS} times within a minute of its start.\n"
                    "What to do: the cause should stand in the lines above; mend it and start again."
                )
                return False
            self._console.line(f"It is started again in {service.next_start - time.monotonic():.0f} s.")
        if time.monotonic() >= service.next_start:
            service.start()
            self.write_record()
        return True

    def stop(self) -> None:
        """End all services, the one that was started last first."""
        for service in reversed(self._services):
            service.stop()
        self._record.unlink(missing_ok=True)
