"""script/server: all set-up, then the hub."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from script.lib import cards, containers, environments, ports, trial
from script.lib.commands import environment
from script.lib.console import Console, SetupError
from script.lib.engine import EngineUnavailableError, NeedsGroupError, ensure_engine, rerun_in_group
from script.lib.locks import only_server, only_setup
from script.lib.places import ROOT, Places, prepare
from script.lib.supervisor import Service, Supervisor, end_leftovers

if TYPE_CHECKING:
    from collections.abc import Callable

_ISOLATES_NOBODY = """\
************************************************************************************************
*  Students' servers run as plain processes of this user, because {reason}
*  THIS ISOLATES NOBODY: every student can read and change everything this user can.
*  Good for a look around on a machine of your own, for nothing else.
************************************************************************************************"""

_OTHER_PORT = "Stop that program, or choose another port with --port."


@dataclass(frozen=True)
class Options:
    """What script/server was asked for."""

    port: int
    gpus: int
    docker: bool
    demo_students: int
    state: Path | None


def parse(arguments: list[str]) -> Options:
    """Read the command line; argparse ends the program with a message when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="script/server", description="Sets everything up and starts the hub on this machine."
    )
    parser.add_argument("--port", type=_number(1024, 65000), default=8000, help="port of the hub's pages (8000)")
    parser.add_argument(
        "--gpus", type=_number(1, 64), default=8, metavar="N", help="simulated GPUs where there is no driver (8)"
    )
    parser.add_argument("--no-docker", action="store_true", help="processes in place of containers; isolates nobody")
    parser.add_argument(
        "--demo-students", type=_number(1, 500), default=5, metavar="N", help="how many student users (5)"
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="folder of the hub's state (.state)")
    given = parser.parse_args(arguments)
    return Options(given.port, given.gpus, not given.no_docker, given.demo_students, given.state)


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {lowest} to {highest}")
        return int(text)

    return read


def main() -> int:
    """Set up and serve; return the exit status."""
    os.environ.pop("PYTHONPATH", None)  # it led to this module and is nothing for the programs started here
    options = parse(sys.argv[1:])
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        places = prepare(ROOT, options.state)
        with only_server(places.state):
            return _serve(console, options, places)
    except NeedsGroupError as needed:
        return _again_in_group(console, needed)
    except SetupError as error:
        console.line(error.text())
        return 1
    except KeyboardInterrupt:
        console.line("Stopped. The next script/server continues where this one was.")
        return 130


def _again_in_group(console: Console, needed: NeedsGroupError) -> int:
    console.line(f"The engine does not let you in yet ({needed}).")
    console.line("Continuing with the group of its socket, for this run only:")
    try:
        rerun_in_group([str(ROOT / "script" / "server"), *sys.argv[1:]])
    except SetupError as error:
        console.line(error.text())
        return 1


def _serve(console: Console, options: Options, places: Places) -> int:
    end_leftovers(places.server_record)
    _require_ports(options.port)

    with ExitStack() as held:
        with console.step("Other runs") as step:
            held.enter_context(only_setup(places.tools, step))
            step.note = "none at work"
        plan, node, no_engine = _set_up(console, options, places)

    supervisor = Supervisor(console, places.server_record)
    supervisor.watch_signals()
    try:
        _start(console, supervisor, plan, places, node)
        _welcome(console, plan, places, no_engine)
        status = supervisor.run()
        kept = "" if no_engine else "; students' containers keep running"
        console.line(f"\nStopping hub, GPU pages and proxy{kept}.")
        return status
    finally:
        supervisor.stop()


def _require_ports(port: int) -> None:
    ports.require_free("127.0.0.1", port, "the hub's pages", _OTHER_PORT)
    ports.require_free("127.0.0.1", port + 1, "the proxy's API", _OTHER_PORT)


def _set_up(console: Console, options: Options, places: Places) -> tuple[trial.Trial, environments.Node, str]:
    """Do every step up to the start; also return why there are no containers, if so."""
    no_engine = _find_engine(console, options, places)
    with console.step("Python packages") as step:
        environments.ensure_hub_environment(step, places, with_tests=False)
    with console.step("Proxy") as step:
        node = environments.ensure_proxy(step, places)

    real = cards.driver_is_present()
    library = None
    state = places.state / "simulated-gpus" / "state"
    with console.step("GPUs") as step:
        if real:
            step.note = "the real ones: an NVIDIA driver answers"
            if not no_engine:
                cards.require_cards_in_containers()
        else:
            library = cards.ensure_simulator(step, places)
            state.parent.mkdir(exist_ok=True)
            cards.create_simulated_cards(step, places, state, options.gpus)
            step.note = f"{options.gpus} simulated (no NVIDIA driver on this machine)"

    gateway, student_python = "127.0.0.1", None
    if no_engine:
        with console.step("Students' packages") as step:
            student_python = environments.ensure_student_environment(step, places, real_gpus=real)
    else:
        with console.step("Student image") as step:
            containers.ensure_image(step, places)
        with console.step("Network") as step:
            gateway = containers.ensure_network(step)

    plan = trial.Trial(
        port=options.port,
        internal_address=gateway,
        demo_students=options.demo_students,
        simulated_gpus=0 if real else options.gpus,
        simulator_library=library,
        simulator_state=None if real else state,
        student_python=student_python,
        spawner="process" if no_engine else "docker",
        network=containers.NETWORK,
        image=containers.IMAGE,
    )
    return plan, node, no_engine


def _find_engine(console: Console, options: Options, places: Places) -> str:
    """Return why there is no engine, or nothing when one answers."""
    if not options.docker:
        return "--no-docker was given."
    with console.step("Docker engine") as step:
        try:
            ensure_engine(step, places)
        except EngineUnavailableError as error:
            step.note = "none can run here"
            return "\n*  ".join(["no Docker engine can run here:", *str(error).splitlines()])
    return ""


def _start(
    console: Console, supervisor: Supervisor, plan: trial.Trial, places: Places, node: environments.Node
) -> None:
    files = trial.write_settings(plan, places)
    trial.demo_password(places)
    token = trial.proxy_token(places)
    hub_api = f"http://{plan.internal_address}:{plan.internal_port}"
    proxy_api = f"http://127.0.0.1:{plan.proxy_api_port}"
    _require_ports(plan.port)  # somebody may have come during the set-up
    ports.require_free(plan.internal_address, plan.internal_port, "the hub's API", _OTHER_PORT)
    for address in dict.fromkeys(("127.0.0.1", plan.internal_address)):
        ports.require_free(address, plan.web_port, "the GPU pages", _OTHER_PORT)
    env = environment(
        PATH=f"{places.venv / 'bin'}:{os.environ.get('PATH', '')}",
        CONFIGPROXY_AUTH_TOKEN=token,
        IDLHUB_SETTINGS=":".join(map(str, files)),
    )
    supervisor.write_record(
        url=f"http://localhost:{plan.port}",
        hub_api=hub_api,
        proxy_api=proxy_api,
        spawner=plan.spawner,
        settings=[str(file) for file in files],
    )
    program = places.proxy / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
    proxy = [str(node.program), str(program), "--ip", "127.0.0.1", "--port", str(plan.port)]
    proxy += ["--api-ip", "127.0.0.1", "--api-port", str(plan.proxy_api_port)]
    proxy += ["--default-target", hub_api, "--error-target", f"{hub_api}/hub/error"]
    hub = [str(places.venv / "bin" / "jupyterhub"), "-f", str(places.root / "jupyterhub_config.py")]

    with console.step("Starting the proxy") as step:
        service = Service("proxy", proxy, env, places.logs / "proxy.log", places.state)
        supervisor.start(service, step, f"{proxy_api}/api/routes", token, 30)
        step.note = f"at 127.0.0.1:{plan.port}"
    # Before the hub, which looks for them when it starts.
    with console.step("Starting the GPU pages") as step:
        web = [str(places.venv / "bin" / "idl-hub"), "web"]
        service = Service("process of the GPU pages", web, env, places.logs / "web.log", places.state)
        supervisor.start(service, step, f"http://127.0.0.1:{plan.web_port}/services/web/health", "", 60)
        step.note = f"at http://127.0.0.1:{plan.port}/services/web/"
    with console.step("Starting the hub") as step:
        service = Service("hub", hub, env, places.logs / "hub.log", places.state)
        supervisor.start(service, step, f"http://127.0.0.1:{plan.port}/hub/api/", "", 180)
        step.note = f"its API at {hub_api}"


def _welcome(console: Console, plan: trial.Trial, places: Places, no_engine: str) -> None:
    if no_engine:
        console.line(_ISOLATES_NOBODY.format(reason=no_engine))
    console.line()
    console.line(f"Ready after {console.elapsed_seconds():.0f} s. Ctrl-C stops it. Logs: {places.logs}")
    if plan.simulated_gpus:
        console.line(f"The {plan.simulated_gpus} GPUs are simulated: programs see them, nothing computes on them.")
    console.line()
    console.line(f"    Open       http://localhost:{plan.port}")
    console.line(f"    Log in as  {plan.users}")
    console.line(f"    Password   {trial.demo_password(places)}")


if __name__ == "__main__":
    sys.exit(main())
