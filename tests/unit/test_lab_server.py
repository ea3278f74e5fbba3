"""The server extension in a real Jupyter server, with simulated GPUs and real kernels."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from hubs import wait_for
from stand_in_web import StandInWeb, session, stand_in_web

from idl_hub.gpus.simulator import SimulatedProcess, Simulator, build

GIB = 2**30
TOKEN = "a-test-token"
NEW_MODULES = """
import sys
import jupyter_server.serverapp, jupyter_server.base.handlers
known = set(sys.modules)
import idl_hub.lab.server
print(sorted(set(sys.modules) - known))
"""


@dataclass(frozen=True)
class Jupyter:
    """A running Jupyter server."""

    url: str
    simulator: Simulator

    def ask(self, method: str, path: str, token: str = TOKEN, **how: Any) -> requests.Response:
        headers = {"Authorization": f"token {token}"} if token else {}
        return requests.request(method, f"{self.url}/{path}", headers=headers, timeout=30, **how)

    def me(self, details: bool = False) -> dict[str, Any]:
        answer = self.ask("GET", "idl-hub/me", params={"details": "1"} if details else {})
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


@pytest.fixture(scope="module")
def web() -> Iterator[StandInWeb]:
    with stand_in_web() as serving:
        yield serving


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory, web: StandInWeb) -> Iterator[Jupyter]:
    folder = tmp_path_factory.mktemp("jupyter")
    simulator = Simulator(folder / "gpus")
    simulator.create(2)
    uuid = simulator.gpus()[1].uuid
    web.me = session(uuid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **os.environ,
        **simulator.environment(build(folder / "library")),
        "HOME": str(folder),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "IDLHUB_WEB_URL": web.url,
        "JUPYTERHUB_API_TOKEN": "the-server-s-token",
        "NVIDIA_VISIBLE_DEVICES": uuid,
    }
    options = [f"--port={port}", "--port-retries=0", "--no-browser", f"--IdentityProvider.token={TOKEN}"]
    options += [f"--ServerApp.root_dir={folder}", "--ServerApp.jpserver_extensions={'idl_hub.lab': True}"]
    options += ["--allow-root"] if os.geteuid() == 0 else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", *options], env=env, cwd=folder, stdout=log, stderr=log
        )
    running = Jupyter(f"http://127.0.0.1:{port}", simulator)

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return running.ask("GET", "api").ok
        except requests.ConnectionError:
            return False

    try:
        wait_for(answers, "the Jupyter server to answer", 60)
        yield running
    finally:
        process.terminate()
        process.wait(20)


def new_notebook_kernel(jupyter: Jupyter, name: str) -> str:
    jupyter.ask("PUT", f"api/contents/{name}", json={"type": "notebook", "content": None})
    wanted = {"path": name, "name": name, "type": "notebook", "kernel": {"name": "python3"}}
    made = jupyter.ask("POST", "api/sessions", json=wanted)
    assert made.status_code == 201, made.text
    kernel_id: str = made.json()["kernel"]["id"]
    return kernel_id


def pid_of_kernel(kernel_id: str) -> int:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and kernel_id.encode() in (folder / "cmdline").read_bytes():
            return int(folder.name)
    raise AssertionError("the kernel does not run")


def test_loading_it_costs_a_start_nothing_but_its_own_module() -> None:
    done = subprocess.run([sys.executable, "-c", NEW_MODULES], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['idl_hub', 'idl_hub.lab', 'idl_hub.lab.server']"


def test_the_hub_s_word_and_nvml_s_come_in_one_answer(jupyter: Jupyter) -> None:
    jupyter.simulator.set(1, utilization_ratio=0.6, memory_used_bytes=2 * GIB)
    wait_for(lambda: jupyter.me()["gpus"][0]["utilization_ratio"] == 0.6, "the load to be seen")
    me = jupyter.me()
    assert (me["has_gpu"], me["simulated"], me["server"], me["lost"]) == (True, True, "gpu05", "")
    (gpu,) = me["gpus"]
    assert (gpu["index"], gpu["memory_used_bytes"]) == (3, 2 * GIB)
    assert me["hub"] == {"reachable": True, "words": ""}
    assert me["holders"] is None


def test_the_server_s_token_never_reaches_the_browser(jupyter: Jupyter, web: StandInWeb) -> None:
    assert "the-server-s-token" not in json.dumps(jupyter.me(details=True))
    assert web.tokens == {"token the-server-s-token"}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "me"), ("POST", "keep"), ("POST", "extend"), ("POST", "shutdown-kernel")]
)
def test_nobody_else_may_ask(jupyter: Jupyter, method: str, path: str) -> None:
    assert jupyter.ask(method, f"idl-hub/{path}", token="").status_code == 403


def test_asking_is_no_use_of_the_server(jupyter: Jupyter) -> None:
    jupyter.me()
    before = jupyter.ask("GET", "api/status", params={"no_track_activity": "1"}).json()["last_activity"]
    for _ in range(3):
        jupyter.me()
    after = jupyter.ask("GET", "api/status", params={"no_track_activity": "1"}).json()["last_activity"]
    assert after == before


def test_keep_and_extend_are_passed_on(jupyter: Jupyter, web: StandInWeb) -> None:
    web.results["keep"] = {"state": "done", "result": "It stays yours."}
    assert jupyter.ask("POST", "idl-hub/keep").json() == {"done": True, "words": "It stays yours."}
    assert jupyter.ask("POST", "idl-hub/extend").json()["done"] is False


def test_the_notebook_that_holds_memory_is_found_and_its_kernel_shut_down(jupyter: Jupyter) -> None:
    kernel_id = new_notebook_kernel(jupyter, "train.ipynb")
    pid = pid_of_kernel(kernel_id)
    jupyter.simulator.set(1, processes=[SimulatedProcess(pid, 3 * GIB)])
    wait_for(lambda: jupyter.me(details=True)["holders"], "the process to be seen")
    (holder,) = jupyter.me(details=True)["holders"]
    assert (holder["name"], holder["path"], holder["kernel_id"]) == ("train.ipynb", "train.ipynb", kernel_id)
    assert holder["memory_used_bytes"] == 3 * GIB

    assert jupyter.ask("POST", "idl-hub/shutdown-kernel", json={"kernel_id": kernel_id}).status_code == 204
    assert jupyter.ask("GET", "api/kernels").json() == []
    assert jupyter.ask("GET", "api/sessions").json() == []
    again = jupyter.ask("POST", "idl-hub/shutdown-kernel", json={"kernel_id": kernel_id})
    assert (again.status_code, again.json()["message"]) == (404, "This kernel has ended already.")


@pytest.mark.parametrize("body", [{}, {"kernel_id": 3}, {"kernel_id": None}])
def test_a_request_that_names_no_kernel_is_refused(jupyter: Jupyter, body: dict[str, Any]) -> None:
    assert jupyter.ask("POST", "idl-hub/shutdown-kernel", json=body).status_code == 400
