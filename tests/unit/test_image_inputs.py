"""What decides whether the student image is built anew, and how failures are explained."""

import json
import re
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "images"))

from builder.failure import ImageError, explain  # noqa: E402
from builder.inputs import ContextFile, as_tar, fingerprint, student_context  # noqa: E402
from builder.steps import Reporter, run_step  # noqa: E402

STUDENT = ROOT / "images" / "student"
CPU = {"TENSORFLOW": "cpu"}
FILE = ContextFile("a", executable=False, content=b"1")


def pins(lock: Path) -> dict[str, str]:
    return dict(line.split("==") for line in lock.read_text().splitlines())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for path, content in {
        "images/student/Dockerfile": "FROM x",
        "idl_hub/gpus/simulator/nvml.c": "int x;",
        "idl_hub/gpus/simulator/driver.py": "x = 1",
        "idl_hub/lab/labextension/static/remoteEntry.js": "x;",
        "idl_hub/lab/__init__.py": "",
        "idl_hub/lab/server.py": "def at_need():\n    from idl_hub.gpus import nvml\n",
        "idl_hub/lab/kernels.py": "",
        "idl_hub/gpus/nvml.py": "if TYPE_CHECKING:\n    from idl_hub.gpus.fleet import Fleet\n",
        "idl_hub/gpus/fleet.py": "import sqlalchemy",
        "certificates/university.crt": "a certificate",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    return tmp_path


def of(repository: Path) -> str:
    return fingerprint(student_context(repository, repository / "certificates"), CPU, "sha256:base")


@pytest.mark.parametrize(
    "changed",
    [
        "images/student/Dockerfile",
        "idl_hub/gpus/simulator/nvml.c",
        "idl_hub/lab/server.py",
        "idl_hub/gpus/nvml.py",
        "idl_hub/lab/labextension/static/remoteEntry.js",
        "certificates/university.crt",
    ],
)
def test_a_change_of_an_input_asks_for_a_new_image(repository: Path, changed: str) -> None:
    before = of(repository)
    (repository / changed).write_text("something_else")
    assert of(repository) != before


@pytest.mark.parametrize(
    "irrelevant",
    [
        "idl_hub/gpus/simulator/driver.py",
        "idl_hub/lab/build.py",
        "images/student/__pycache__/x.pyc",
        "images/student/Dockerfile~",
        "README",
    ],
)
def test_a_change_of_anything_else_does_not(repository: Path, irrelevant: str) -> None:
    before = of(repository)
    (repository / irrelevant).parent.mkdir(exist_ok=True)
    (repository / irrelevant).write_text("something_else")
    assert of(repository) == before


def test_the_image_gets_what_a_student_s_server_imports_of_idl_hub_and_nothing_of_the_hub() -> None:
    paths = {file.path for file in student_context(ROOT, ROOT / "none")}
    ours = {path.removeprefix("lab/idl_hub/") for path in paths if path.startswith("lab/idl_hub/")}
    assert {
        "__init__.py",
        "lab/server.py",
        "lab/kernels.py",
        "lab/status.py",
        "gpus/__init__.py",
        "gpus/nvml.py",
    } <= ours
    assert {path.split("/")[0] for path in ours} == {"__init__.py", "lab", "gpus", "homes"}
    assert not ours & {"gpus/fleet.py", "gpus/leases.py", "lab/build.py", "homes/store.py"}


def test_a_file_that_becomes_executable_asks_for_a_new_image(repository: Path) -> None:
    before = of(repository)
    (repository / "images/student/Dockerfile").chmod(0o755)
    assert of(repository) != before


def test_the_build_of_tensorflow_and_the_base_image_count_too() -> None:
    here = fingerprint([FILE], CPU, "sha256:base")
    assert fingerprint([FILE], {"TENSORFLOW": "gpu"}, "sha256:base") != here
    assert fingerprint([FILE], CPU, "sha256:other") != here


def test_names_and_contents_do_not_run_into_each_other() -> None:
    shifted = ContextFile("a1", executable=False, content=b"")
    assert fingerprint([shifted], CPU, "") != fingerprint([FILE], CPU, "")


def test_a_host_without_extra_certificates_still_has_the_folder_in_the_context(repository: Path) -> None:
    paths = [file.path for file in student_context(repository, repository / "none")]
    assert [path for path in paths if path.startswith("ca-certificates/")] == ["ca-certificates/README"]


def test_the_context_keeps_contents_and_modes_and_nothing_of_the_clock() -> None:
    script = ContextFile("bin/run", executable=True, content=b"#!/bin/sh\n")
    packed = as_tar([FILE, script])
    assert packed == as_tar([FILE, script])
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        assert [(entry.name, entry.mode, entry.mtime) for entry in archive] == [("a", 0o644, 0), ("bin/run", 0o755, 0)]


# The lock files


@pytest.mark.parametrize("build", ["cpu", "gpu"])
def test_every_package_is_pinned_to_one_version(build: str) -> None:
    for line in (STUDENT / f"tensorflow-{build}.lock").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+", line), line


def test_the_two_builds_differ_in_tensorflow_and_nvidia_s_libraries_only() -> None:
    cpu, gpu = pins(STUDENT / "tensorflow-cpu.lock"), pins(STUDENT / "tensorflow-gpu.lock")
    differing = {name for name, _ in cpu.items() ^ gpu.items()}
    libraries = {name for name in differing if re.fullmatch(r"nvidia-.*-cu12", name)}
    assert differing - libraries == {"tensorflow", "tensorflow-cpu"}
    assert gpu["tensorflow"] == cpu["tensorflow-cpu"] == "2.19.1"


def test_the_gpu_build_runs_on_pascal() -> None:
    gpu = pins(STUDENT / "tensorflow-gpu.lock")
    cudnn = tuple(int(part) for part in gpu["nvidia-cudnn-cu12"].split(".")[:2])
    assert cudnn <= (9, 10)  # 9.11 dropped Pascal
    assert gpu["nvidia-cuda-runtime-cu12"].startswith("12.")  # CUDA 13 did too


@pytest.mark.parametrize("build", ["cpu", "gpu"])
def test_the_slow_format_check_is_left_out(build: str) -> None:
    assert {"rfc3987-syntax", "lark"}.isdisjoint(pins(STUDENT / f"tensorflow-{build}.lock"))


# The first exercise


def test_the_first_exercise_is_delivered_without_outputs_and_every_cell_has_an_id() -> None:
    notebook = json.loads((STUDENT / "exercises" / "First steps in TensorFlow.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) > 20
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook["cells"])


# Failures


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("Got permission denied while trying to connect to the Docker daemon socket", "usermod -aG docker"),
        ("dial unix /var/run/docker.sock: connect: permission denied", "usermod -aG docker"),
        ("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?", "systemctl start docker"),
        ("write /var/lib/docker/tmp/x: no space left on device", "Make room"),
        ("E: Failed to fetch http://mirror/x  Temporary failure resolving 'mirror'", "HTTPS_PROXY"),
        ("error sending request for url: invalid peer certificate: UnknownIssuer", "ca-certificates"),
    ],
)
def test_a_failure_names_its_cause_and_what_to_do(output: str, remedy: str) -> None:
    message = str(explain("Build", f"first line\n{output}\nlast line"))
    assert remedy in message
    assert "last line" in message


def test_an_unknown_failure_shows_what_was_written_last() -> None:
    message = str(explain("Build", "\n".join(f"line {number}" for number in range(100))))
    assert "line 99" in message
    assert "line 50" not in message


def test_a_step_that_fails_raises_with_its_output() -> None:
    with pytest.raises(ImageError, match="no space left"):
        run_step(
            Reporter(quiet=True), "Step", ["sh", "-c", "echo no space left on device; exit 3"], deadline_seconds=10
        )


def test_a_step_that_hangs_is_ended_at_its_deadline() -> None:
    started = time.monotonic()
    with pytest.raises(ImageError, match="not finished after 1 s"):
        run_step(Reporter(quiet=True), "Step", ["sleep", "60"], deadline_seconds=1)
    assert time.monotonic() - started < 10


def test_a_step_reports_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_step(Reporter(), "Step", ["cat"], deadline_seconds=10, given=b"what was given\n") == "what was given"
    assert re.fullmatch(r"  Step: done in [\d.]+ s\n", capsys.readouterr().out)


def test_an_interrupt_ends_the_running_command(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'images')!r})\n"
        "from builder.steps import Reporter, run_step\n"
        f"run_step(Reporter(), 'S', ['sh', '-c', 'echo $$ > {tmp_path}/pid; exec sleep 60'], deadline_seconds=60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a file appears without an event; the deadline is above
    child = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGINT)
    process.wait(20)
    assert not Path(f"/proc/{child}").exists()
