"""A Docker engine that answers and that this user may use: found, installed, started, or clearly not there."""

from __future__ import annotations

import enum
import grp
import os
import pwd
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from script.lib.commands import CommandFailedError, ask, explain, run
from script.lib.console import SetupError, Step
from script.lib.privileges import as_root, install_packages

if TYPE_CHECKING:
    from script.lib.places import Places

SOCKET = Path("/var/run/docker.sock")
_START_SECONDS = 60


class EngineUnavailableError(Exception):
    """No engine can run on this machine; the message says why."""


class Answer(enum.Enum):
    """What came of asking the engine for its version."""

    READY = enum.auto()
    FORBIDDEN = enum.auto()
    SILENT = enum.auto()


@dataclass(frozen=True)
class Reply:
    """The engine's answer, with its version when ready, else what the client said."""

    answer: Answer
    text: str


def ask_engine() -> Reply:
    """Ask the engine for its version."""
    if shutil.which("docker") is None:
        return Reply(Answer.SILENT, "the docker command is not installed")
    told = ask(["docker", "version", "--format", "{{.Server.Version}}"])
    if told is None:
        return Reply(Answer.SILENT, "the engine did not answer within 20 s")
    if told.returncode == 0 and told.stdout.strip():
        return Reply(Answer.READY, told.stdout.strip())
    text = (told.stderr.strip().splitlines() or ["no answer"])[-1]
    return Reply(Answer.FORBIDDEN if "permission denied" in text.lower() else Answer.SILENT, text)


def ensure_engine(step: Step, places: Places) -> None:
    """Make sure that an engine answers, installing and starting one where need be.

    Raises
    ------
    EngineUnavailableError
        When none can run here.
    NeedsGroupError
        When it answers root but not this user.
    SetupError
        When a remote engine (DOCKER_HOST) does not answer: none of ours can stand in for it.
    """
    reply = ask_engine()
    if reply.answer is Answer.SILENT:
        _refuse_remote(reply)
        if _daemon() is None or shutil.which("docker") is None:
            _install(step, places)
        reply = ask_engine()
    if reply.answer is Answer.SILENT:
        _start(step, places)
        reply = ask_engine()
    if reply.answer is Answer.FORBIDDEN:
        step.note = "runs, but you are not in the group of its socket"
        raise NeedsGroupError(reply.text)
    if reply.answer is Answer.SILENT:
        raise EngineUnavailableError(reply.text)
    step.note = f"{reply.text} answers"


def _refuse_remote(reply: Reply) -> None:
    host = os.environ.get("DOCKER_HOST", "")
    if host and host.removeprefix("unix://") != str(SOCKET):
        raise SetupError(
            f"The Docker engine that DOCKER_HOST names ({host}) does not answer: {reply.text}",
            "Start that engine, or unset DOCKER_HOST to use one on this machine.",
        )


def _daemon() -> str | None:
    return shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/usr/local/sbin:/sbin")


def _install(step: Step, places: Places) -> None:
    step.say("installing docker.io with apt")
    log = places.setup_logs / "engine.log"
    try:
        # Debian 13 has the client in a package of its own.
        install_packages(step, ["docker.io", "iptables"], log, if_known=["docker-cli"])
    except SetupError as error:
        raise EngineUnavailableError(f"{error.what} {error.detail}".strip()) from error


def _start(step: Step, places: Places) -> None:
    step.say("starting the engine")
    log = places.setup_logs / "dockerd.log"
    try:
        if Path("/run/systemd/system").is_dir():
            run(step, as_root(["systemctl", "start", "docker.service"]), log, deadline_seconds=120)
        else:
            _start_directly(step, log)
    except CommandFailedError as failure:
        message = explain("The Docker engine could not be started", failure, log, "")
        raise EngineUnavailableError(f"{message.what} {failure.tail}") from failure
    except SetupError as error:
        raise EngineUnavailableError(error.what) from error
    _await_answer(step, log)


def _start_directly(step: Step, log: Path) -> None:
    """Start dockerd in a session of its own; it outlives this program on purpose."""
    daemon = _daemon()
    if daemon is None:
        raise SetupError("dockerd is not installed.", "apt-get install docker.io")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    inner = 'log=$1; shift; exec setsid env PATH="$0" "$@" >>"$log" 2>&1 </dev/null &'
    run(step, as_root(["sh", "-c", inner, path, str(log), daemon]), log, deadline_seconds=30)


def _await_answer(step: Step, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        reply = ask_engine()
        if reply.answer is not Answer.SILENT:
            return
        step.say(f"waiting for the engine: {reply.text}")
        time.sleep(0.5)  # the client offers no waiting of its own
    lines = log.read_text(errors="replace").splitlines()[-5:] if os.access(log, os.R_OK) else []
    raise EngineUnavailableError(
        f"dockerd was started but did not answer within {_START_SECONDS} s (log: {log}).\n" + "\n".join(lines)
    )


class NeedsGroupError(Exception):
    """The engine runs, and this user may not use its socket."""


def rerun_in_group(command: list[str]) -> NoReturn:
    """Start this program anew with the socket's group; never returns.

    A user who was just put into the group lacks it until the next login, and a user with sudo need not
    be in it: membership is as good as root for good, so this run borrows the group and changes nothing.

    Raises
    ------
    SetupError
        When the group cannot be had.
    """
    user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(SOCKET.stat().st_gid)
    refusal = SetupError(
        f"The Docker engine runs, but {user.pw_name} has no permission on its socket {SOCKET}.",
        f"Have root run: usermod -aG {group.gr_name} {user.pw_name}  (which makes {user.pw_name} as mighty as root), "
        "log out and in again, and run this once more. Or start without Docker: script/server --no-docker.",
    )
    if os.environ.get("IDLHUB_BORROWED_GROUP"):
        raise refusal
    environment = {**os.environ, "IDLHUB_BORROWED_GROUP": group.gr_name}
    if user.pw_name in group.gr_mem and shutil.which("sg"):
        # The second sg makes the user's own group the first one again: newuidmap insists on that.
        inner = shlex.join(["sg", grp.getgrgid(user.pw_gid).gr_name, "-c", shlex.join(command)])
        os.execvpe("sg", ["sg", group.gr_name, "-c", inner], environment)  # noqa: S606
    try:
        as_root(["true"])
    except SetupError:
        raise refusal from None
    groups = ",".join(map(str, {*os.getgroups(), user.pw_gid, group.gr_gid}))
    identity = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", f"--groups={groups}"]
    # sudo sets these to root's, whatever is preserved.
    kept = [f"{name}={environment[name]}" for name in ("PATH", "HOME", "USER", "LOGNAME") if name in environment]
    prefix = ["sudo", "--preserve-env", "setpriv", *identity, "env", *kept]
    os.execvpe("sudo", [*prefix, *command], environment)  # noqa: S606
