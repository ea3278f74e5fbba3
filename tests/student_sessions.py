"""Containers of the student image, run as the spawner runs them but without a hub."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "idl-hub/student:latest"
DOCKER = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else str(shutil.which("docker"))
READY_SECONDS = 60.0
LABEL = "idlhub.test=student-image"
# start-singleuser's first step, and then nothing: Matplotlib would announce on stderr that it looks for fonts.
_WAIT = ("sh", "-c", 'cp -r /opt/idl_hub/matplotlib "$MPLCONFIGDIR"; exec sleep infinity')
_AS_THE_SPAWNER = (
    "--init",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--read-only",
    "--tmpfs=/tmp:exec,mode=1777,size=4g",
    "--tmpfs=/var/local/idl_hub:mode=1777,size=128m",
)


@dataclass(frozen=True)
class Done:
    """What a command wrote and how it ended."""

    code: int
    out: str
    err: str


def docker(*arguments: str, timeout_seconds: float = 180.0) -> Done:
    """Run a Docker command to its end."""
    done = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, timeout=timeout_seconds)
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Session:
    """A running container of the student image."""

    container: str

    def run(self, *command: str, env: Mapping[str, str] | None = None, timeout_seconds: float = 180.0) -> Done:
        """Run a command in it as the student."""
        variables = [f"--env={name}={value}" for name, value in (env or {}).items()]
        return docker("exec", *variables, self.container, *command, timeout_seconds=timeout_seconds)

    def python(self, code: str, env: Mapping[str, str] | None = None) -> Done:
        """Run Python code as a kernel would see it: the course's packages and the student's own."""
        return self.run("python", "-c", code, env=env)

    def copy_in(self, path: Path, to: str) -> None:
        """Copy a file into the container, readable by the student."""
        # Not with "docker cp", which the engine refuses where the root file system is read-only.
        command = [DOCKER, "exec", "--interactive", self.container, "sh", "-c", 'cat > "$1"', "sh", to]
        done = subprocess.run(command, input=path.read_bytes(), capture_output=True, timeout=180)
        assert done.returncode == 0, done.stderr

    def log(self) -> str:
        """Return what the container wrote."""
        done = docker("logs", self.container)
        return done.out + done.err


@contextmanager
def student_session(
    *,
    volume: str,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    command: Sequence[str] = _WAIT,
) -> Iterator[Session]:
    """Run a container with a student's rights and the volume as home; remove it at the end."""
    arguments = ["run", "--detach", *_AS_THE_SPAWNER]
    arguments += [f"--label={LABEL}", "--network=host", f"--volume={volume}:/home/student"]
    arguments += [f"--env={name}={value}" for name, value in (env or {}).items()]
    done = docker(*arguments, *options, IMAGE, *command)
    assert done.code == 0, done.err
    session = Session(done.out.strip())
    try:
        yield session
    finally:
        docker("rm", "--force", session.container)


@contextmanager
def home_volume() -> Iterator[str]:
    """Make an empty home; remove it at the end."""
    name = f"idlhub-test-home-{uuid.uuid4().hex[:12]}"
    assert docker("volume", "create", "--label", LABEL, name).code == 0
    try:
        yield name
    finally:
        docker("volume", "rm", "--force", name)


class _HubAPI(http.server.BaseHTTPRequestHandler):
    """As much of the hub's API as a single-user server asks for: the version and who a token belongs to."""

    def do_GET(self) -> None:
        model: dict[str, Any] = {"version": "6.1.1"}
        if self.path.endswith("/user"):
            scopes = ["access:servers!server=student/"]
            model = {"kind": "user", "name": "student", "groups": [], "scopes": scopes, "session_id": None}
        self._answer(json.dumps(model).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(b"{}")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
        """Keep quiet."""


@dataclass(frozen=True)
class StudentServer:
    """A Jupyter server that answers."""

    session: Session
    url: str
    seconds_to_answer: float

    def get(self, path: str) -> Any:
        """Ask its API as the student."""
        return self._ask(urllib.request.Request(self.url + path))

    def post(self, path: str) -> Any:
        """Ask its API to make something."""
        return self._ask(urllib.request.Request(self.url + path, data=b"{}", method="POST"))

    def delete(self, path: str) -> None:
        """Ask its API to delete something."""
        self._ask(urllib.request.Request(self.url + path, method="DELETE"))

    def _ask(self, request: urllib.request.Request) -> Any:
        request.add_header("Authorization", "token a-test-token")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")


@contextmanager
def student_server(volume: str, env: Mapping[str, str] | None = None) -> Iterator[StudentServer]:
    """Start the image's own command and wait until the server answers."""
    api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _HubAPI)
    thread = threading.Thread(target=api.serve_forever, daemon=True)
    thread.start()
    hub = f"http://127.0.0.1:{api.server_port}/hub/api"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/user/student/"
    variables = {
        "JUPYTERHUB_ACTIVITY_URL": f"{hub}/users/student/activity",
        "JUPYTERHUB_API_TOKEN": "a-test-token",
        "JUPYTERHUB_API_URL": hub,
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-student",
        "JUPYTERHUB_HOST": "",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:servers!server=student/"]',
        "JUPYTERHUB_OAUTH_CALLBACK_URL": "/user/student/oauth_callback",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/student/",
        "JUPYTERHUB_SERVICE_URL": url,
        "JUPYTERHUB_USER": "student",
        **(env or {}),
    }
    try:
        with student_session(volume=volume, env=variables, command=()) as session:
            yield StudentServer(session, url, _wait_until_it_answers(session, f"{url}api"))
    finally:
        api.shutdown()
        api.server_close()
        thread.join(timeout=10)


def _wait_until_it_answers(session: Session, url: str) -> float:
    started = time.monotonic()
    while (seconds := time.monotonic() - started) < READY_SECONDS:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return time.monotonic() - started
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)  # between two questions; the deadline is above
    raise AssertionError(f"the server did not answer within {seconds:.0f} s:\n{session.log()}")


def make_wheel(folder: Path, name: str, version: str, files: Mapping[str, str], requires: str = "") -> Path:
    """Write a small pure Python wheel, so that installing can be tested without an index."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if requires:
        metadata += f"Requires-Dist: {requires}\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, content in files.items():
            wheel.writestr(inner, content)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "".join(f"{inner},,\n" for inner in wheel.namelist()))
    return path
