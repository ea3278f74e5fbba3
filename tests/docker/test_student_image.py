"""The student image, on a real engine."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from student_sessions import (
    IMAGE,
    ROOT,
    Session,
    docker,
    home_volume,
    make_wheel,
    student_server,
    student_session,
)

from idl_hub.gpus.simulator import Simulator

pytestmark = pytest.mark.timeout(1800)  # the first run builds the image
EXERCISE = "First steps in TensorFlow.ipynb"
TRAIN = """
import numpy as np, tensorflow as tf
layers = [tf.keras.layers.Dense(4, activation="relu"), tf.keras.layers.Dense(2)]
model = tf.keras.Sequential([tf.keras.Input((8,)), *layers])
model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(np.random.rand(256, 8), np.random.randint(0, 2, 256), epochs=2, verbose=0)
print("trained", len(tf.config.list_physical_devices("GPU")), "GPUs")
"""
USER_SITE = "/home/student/.local/lib/python3.11/site-packages"
WITHOUT_MINE = {"IDLHUB_WITHOUT_MY_PACKAGES": "1"}


@pytest.fixture(scope="module", autouse=True)
def image() -> str:
    """The image, built if it has to be."""
    done = subprocess.run([ROOT / "script" / "image"], capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    return IMAGE


@pytest.fixture
def home() -> Iterator[str]:
    with home_volume() as name:
        yield name


@pytest.fixture
def session(home: str) -> Iterator[Session]:
    with student_session(volume=home) as running:
        yield running


@pytest.fixture
def simulator_options(tmp_path: Path) -> list[str]:
    """What the spawner adds for one simulated GPU of eight."""
    simulator = Simulator(tmp_path / "gpus.state")
    simulator.create(8)
    simulator.path.chmod(0o644)
    return [
        f"--volume={simulator.path}:/run/gpus.state:ro",
        "--env=IDLHUB_SIMULATOR_STATE=/run/gpus.state",
        "--env=LD_LIBRARY_PATH=/opt/idl_hub/simulator",
        f"--env=NVIDIA_VISIBLE_DEVICES={simulator.gpus()[3].uuid}",
    ]


def broken(message: str) -> str:
    return f"raise RuntimeError({message!r})\n"


def put(session: Session, path: str, content: str) -> None:
    script = 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"'
    assert session.run("sh", "-c", script, "sh", path, content).code == 0


# What is in it


def test_it_holds_the_versions_of_the_course(session: Session) -> None:
    names = ["jupyterlab", "notebook", "nbgrader", "jupyterhub", "tensorflow", "tensorboard"]
    code = f"from importlib.metadata import version\nprint(*[version(name) for name in {names}])"
    lab, notebook, nbgrader, hub, tensorflow, tensorboard = session.python(code).out.split()
    assert lab.startswith("4.6.")
    assert notebook.startswith("7.6.")
    assert (nbgrader, hub, tensorflow) == ("0.9.6", "6.1.1", "2.19.1")
    assert tensorboard.startswith("2.19.")


def test_its_packages_fit_together(session: Session) -> None:
    done = session.run("pip", "check")
    assert done.code == 0, done.out


@pytest.mark.parametrize("module", ["matplotlib", "pandas", "sklearn", "jupyterlab_git", "jupyter_resource_usage"])
def test_a_package_of_the_course_can_be_imported(session: Session, module: str) -> None:
    assert session.python(f"import {module}").code == 0


def test_tensorboard_starts(session: Session) -> None:
    done = session.run("tensorboard", "--version_tb")
    assert done.out.startswith("2.19."), done.err


def test_the_student_has_no_rights(session: Session) -> None:
    assert session.run("id", "-u").out.strip() == "1000"
    assert session.run("sh", "-c", "command -v sudo").code != 0
    assert session.run("touch", "/opt/idl_hub/venv/mine").code != 0
    lending_rights = session.run("find", "/", "-xdev", "-perm", "/6000", "-type", "f")
    assert lending_rights.out == ""


def test_it_carries_no_secret() -> None:
    described = docker("history", "--no-trunc", IMAGE).out + docker("image", "inspect", IMAGE).out
    for name, value in os.environ.items():
        if re.search(r"TOKEN|SECRET|PASSW|API_?KEY", name) and len(value) >= 8:
            assert value not in described, f"the value of {name} got into the image"
    looks_secret = re.findall(r"(?i)\b[\w-]*(?:token|secret|passw|api_?key)[\w-]*=\S+", described)
    assert looks_secret == []
    # Keys that packages carry for their own tests are no secret.
    search = (
        "find / -xdev \\( -name .netrc -o -name .pypirc -o -name .git-credentials -o -name 'id_*' -path '*/.ssh/*' \\);"
        " grep -rlE 'BEGIN [A-Z ]*PRIVATE KEY' /etc /home /opt/idl_hub /root /srv /usr/local /var"
        " --exclude-dir=site-packages"
    )
    found = docker("run", "--rm", "--user=root", IMAGE, "sh", "-c", f"{{ {search}; }} 2>/dev/null").out
    assert found == ""


# TensorFlow


def test_training_writes_nothing_to_stderr(session: Session) -> None:
    done = session.python(TRAIN)
    assert (done.code, done.err) == (0, "")
    assert "trained 0 GPUs" in done.out


def test_training_with_a_simulated_gpu_writes_nothing_to_stderr(home: str, simulator_options: list[str]) -> None:
    with student_session(volume=home, options=simulator_options) as session:
        done = session.python(TRAIN)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(("wanted", "level"), [({}, 3), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, 0)], ids=["quiet", "asked for"])
def test_the_native_log_obeys_too_which_the_gpu_build_writes_to(
    session: Session, wanted: dict[str, str], level: int
) -> None:
    code = (
        "import ctypes, tensorflow as tf; from pathlib import Path;"
        "library = ctypes.CDLL(str(Path(tf.__file__).parent / 'libtensorflow_framework.so.2'));"
        "print(library['_ZN4absl12lts_2023080211MinLogLevelEv']())"
    )
    assert session.python(code, env=wanted).out.strip() == str(level)


def test_nvitop_shows_exactly_the_one_gpu_of_the_session(home: str, simulator_options: list[str]) -> None:
    with student_session(volume=home, options=simulator_options) as session:
        done = session.run("nvitop", "-1", env={"TERM": "xterm-256color", "COLUMNS": "120"})
        uuids = session.python(
            "import pynvml as n; n.nvmlInit();"
            "print(*[n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(i)) for i in range(n.nvmlDeviceGetCount())])"
        ).out.split()
    assert done.code == 0, done.err
    assert done.out.count("GTX 1080 Ti") == 1, done.out
    assert [f"--env=NVIDIA_VISIBLE_DEVICES={uuid}" for uuid in uuids] == simulator_options[-1:]


def test_the_first_exercise_runs_and_learns(home: str, simulator_options: list[str]) -> None:
    with student_session(volume=home, options=simulator_options) as session:
        done = session.run(
            "jupyter", "nbconvert", "--to=notebook", "--execute", "--stdout", f"/opt/idl_hub/exercises/{EXERCISE}"
        )
    assert done.code == 0, done.err
    outputs = [output for cell in json.loads(done.out)["cells"] for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    text = "".join("".join(output.get("text", "")) for output in outputs)
    assert "Reserved for you: NVIDIA GeForce GTX 1080 Ti (simulated" in text
    accuracy = re.search(r"Test accuracy: ([\d.]+)", text)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.9


# The server


def test_a_server_starts_in_an_empty_home_and_keeps_databases_out_of_it(home: str) -> None:
    with student_server(home) as server:
        kernel = server.post("api/kernels")
        assert kernel["name"] == "python3"
        history = server.session.python(
            "from IPython.core.history import HistoryManager as H; from traitlets.config import *;"
            "from IPython.terminal.ipapp import TerminalIPythonApp as A; a = A(); a.initialize([]);"
            "print(a.shell.history_manager.hist_file)"
        )
        databases = server.session.run("sh", "-c", "find ~ /var/local/idl_hub -name '*.sqlite*' -o -name '*.db'")
        runtime = server.session.run("sh", "-c", "find ~ -path '*runtime*' -type f").out
    assert history.out.strip().endswith("/var/local/idl_hub/ipython_history.sqlite")
    paths = databases.out.split()
    assert "/var/local/idl_hub/ipython_history.sqlite" in paths
    assert [path for path in paths if path.startswith("/home")] == []
    assert runtime == ""


def test_a_server_starts_whatever_the_student_installed_or_configured(home: str) -> None:
    with student_session(volume=home) as session:
        for name in ("jupyter_server", "tornado", "traitlets", "jupyterlab"):
            put(session, f"{USER_SITE}/{name}/__init__.py", broken(f"a broken {name}"))
        for name in ("sitecustomize", "usercustomize", "tornado"):
            put(session, f"{USER_SITE}/{name}.py", broken(f"a broken {name}"))
            put(session, f"/home/student/{name}.py", broken(f"a broken {name}"))
        put(session, f"{USER_SITE}/broken.pth", "import no_such_module")
        put(session, "/home/student/.jupyter/jupyter_server_config.py", broken("a broken configuration"))
        put(
            session,
            "/home/student/.local/etc/jupyter/jupyter_server_config.d/x.json",
            '{"ServerApp": {"jpserver_extensions": {"no_such_extension": true}}}',
        )
    with student_server(home, {"PYTHONPATH": f"{USER_SITE}:/home/student"}) as server:
        assert server.get("api/status")["kernels"] == 0
        assert "no_such_extension" not in server.session.log()


def test_the_server_loads_only_the_extensions_a_student_needs(home: str) -> None:
    with student_server(home) as server:
        log = server.session.log()
    loaded = set(re.findall(r"([\w.]+) \| extension was successfully loaded", log))
    assert {"jupyterlab", "notebook", "jupyter_server_terminals", "jupyterlab_git", "jupyter_resource_usage"} <= loaded
    assert {name for name in loaded if name.startswith(("nbgrader", "jupyter_lsp"))} == set()
    assert "Traceback" not in log


def test_no_format_check_for_iris_slows_the_start(session: Session) -> None:
    done = session.python(
        "import sys, jupyter_events.logger; print(sorted({'lark', 'rfc3987_syntax'} & set(sys.modules)))"
    )
    assert done.out.strip() == "[]"


def test_the_course_s_kernel_cannot_be_replaced_and_own_kernels_are_offered(home: str) -> None:
    spec = json.dumps({"argv": ["false"], "display_name": "mine", "language": "python"})
    with student_session(volume=home) as session:
        for name in ("python3", "mine"):
            put(session, f"/home/student/.local/share/jupyter/kernels/{name}/kernel.json", spec)
    with student_server(home) as server:
        specs = server.get("api/kernelspecs")["kernelspecs"]
    assert specs["python3"]["spec"]["argv"][1:3] == ["-m", "ipykernel_launcher"]
    assert specs["mine"]["spec"]["display_name"] == "mine"


def test_the_first_exercise_is_put_into_the_home_of_a_trial_once(home: str) -> None:
    with student_server(home) as server:
        assert server.session.run("ls", "/home/student").out == ""
    trial = {"IDLHUB_TRIAL_EXERCISE": "1"}
    with student_server(home, trial) as server:
        assert server.session.run("test", "-s", f"/home/student/{EXERCISE}").code == 0
        put(server.session, f"/home/student/{EXERCISE}", "my work")
    with student_server(home, trial) as server:
        assert server.session.run("cat", f"/home/student/{EXERCISE}").out == "my work"


# The student's own packages


def test_an_own_package_persists_and_can_be_left_out(home: str, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "my_package", "1.0", {"my_package.py": "there = True\n"})
    with student_session(volume=home) as session:
        session.copy_in(wheel, f"/tmp/{wheel.name}")
        installed = session.run("pip", "install", f"/tmp/{wheel.name}")
        assert installed.code == 0, installed.err
    with student_session(volume=home) as session:
        assert session.python("import my_package").code == 0
    show = "import os, sys; print(os.environ.get('PYTHONNOUSERSITE'), any('.local' in p for p in sys.path))"
    with student_server(home, WITHOUT_MINE) as server:
        pid = server.session.run(
            "sh", "-c", "grep -l singleuser /proc/[0-9]*/cmdline | tail -1 | cut -d/ -f3"
        ).out.strip()
        environment = server.session.run("sh", "-c", f"tr '\\0' '\\n' < /proc/{pid}/environ").out.splitlines()
        assert "PYTHONNOUSERSITE=1" in environment
        inherited = {"PYTHONNOUSERSITE": "1", **WITHOUT_MINE}
        assert server.session.python(show, env=inherited).out.split() == ["1", "False"]
        assert server.session.python("import my_package", env=inherited).code != 0
        # ... and can be removed from there.
        removed = server.session.run("pip", "uninstall", "-y", "my_package", env=inherited)
        assert removed.code == 0, removed.err
    with student_session(volume=home) as session:
        assert session.python("import my_package").code != 0


def test_an_own_package_can_be_upgraded(session: Session, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        wheel = make_wheel(tmp_path, "my_package", version, {"my_package.py": f"version = {version!r}\n"})
        session.copy_in(wheel, f"/tmp/{wheel.name}")
        done = session.run("pip", "install", f"/tmp/{wheel.name}")
        assert done.code == 0, done.err
    assert session.python("import my_package; print(my_package.version)").out.strip() == "2.0"
    assert "my-package" in session.run("pip", "list", "--user").out.replace("_", "-")
    assert session.run("sh", "-c", f"ls -d {USER_SITE}/*.dist-info").out.count("dist-info") == 1


@pytest.mark.parametrize("pip", [["pip"], ["python", "-m", "pip"]], ids=["pip", "python -m pip"])
@pytest.mark.parametrize("package", ["numpy", "tensorflow", "jupyter_server", "nbgrader"])
def test_a_package_of_the_course_cannot_be_swapped_unawares(
    session: Session, tmp_path: Path, pip: list[str], package: str
) -> None:
    wheel = make_wheel(tmp_path, package, "0.1", {f"{package}.py": ""})
    session.copy_in(wheel, f"/tmp/{wheel.name}")
    done = session.run(*pip, "install", "--no-deps", f"/tmp/{wheel.name}")
    assert done.code != 0
    assert "the course fixes" in done.err
    assert "python -m venv ~/my-environment" in done.err


def test_a_package_that_needs_another_numpy_is_refused_with_an_explanation(session: Session, tmp_path: Path) -> None:
    old_numpy = make_wheel(tmp_path, "numpy", "0.1", {"numpy.py": ""})
    wheel = make_wheel(tmp_path, "old_fashioned", "1.0", {"old_fashioned.py": ""}, requires="numpy<1")
    for file in (old_numpy, wheel):
        session.copy_in(file, f"/tmp/{file.name}")
    done = session.run("pip", "install", "--no-index", "--find-links=/tmp", "old_fashioned")
    assert done.code != 0
    assert "the course fixes" in done.err


def test_a_failure_for_another_reason_is_not_blamed_on_the_course(session: Session) -> None:
    done = session.run("pip", "install", "--no-index", "no-such-package-anywhere")
    assert done.code != 0
    assert "the course fixes" not in done.err


def test_a_package_forced_into_the_home_does_not_replace_the_course_s(session: Session) -> None:
    for name in ("numpy", "tensorflow", "tornado"):
        put(session, f"{USER_SITE}/{name}/__init__.py", broken("this must not be imported"))
    done = session.python("import numpy, tensorflow, tornado; print(numpy.__file__)")
    assert done.code == 0, done.err
    assert done.out.startswith("/opt/idl_hub/venv/")


def test_what_builds_on_tensorflow_does_not_fetch_it_again(session: Session, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "on_top", "1.0", {"on_top.py": ""}, requires="tensorflow>=2.16")
    session.copy_in(wheel, f"/tmp/{wheel.name}")
    done = session.run("pip", "install", "--no-index", f"/tmp/{wheel.name}")
    assert done.code == 0, done.err


def test_in_an_environment_of_their_own_students_are_free(session: Session, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "numpy", "0.1", {"numpy.py": "mine = True\n"})
    session.copy_in(wheel, f"/tmp/{wheel.name}")
    assert session.run("python", "-m", "venv", "/home/student/my-environment").code == 0
    done = session.run("my-environment/bin/pip", "install", f"/tmp/{wheel.name}")
    assert done.code == 0, done.err
    assert session.run("my-environment/bin/python", "-c", "import numpy; numpy.mine").code == 0


def test_pip_reaches_its_index_past_the_host_s_proxy(session: Session) -> None:
    done = session.run("pip", "download", "--no-deps", "--dest=/tmp/downloaded", "six")
    assert done.code == 0, done.err


# The terminal


@pytest.mark.parametrize("shell", [["bash", "-ic"], ["bash", "-lc"]], ids=["terminal", "tmux"])
def test_every_shell_finds_the_course_s_commands(session: Session, shell: list[str]) -> None:
    done = session.run(*shell, "command -v python nvitop jupyter git tmux && echo $LANG && echo é | wc -m")
    assert done.out.split()[:3] == [f"/opt/idl_hub/venv/bin/{name}" for name in ("python", "nvitop", "jupyter")]
    assert done.out.split()[-2:] == ["C.UTF-8", "2"]


def test_the_server_s_terminal_opens_bash(home: str) -> None:
    with student_server(home) as server:
        name = server.post("api/terminals")["name"]
        assert [terminal["name"] for terminal in server.get("api/terminals")] == [name]
        assert "/bin/bash" in server.session.run("ps", "-eo", "args").out.splitlines()


def test_git_asks_for_a_name_instead_of_inventing_one(session: Session) -> None:
    work = "git init -q repository && cd repository && git branch --show-current && git commit --allow-empty -m x"
    done = session.run("sh", "-c", work)
    assert done.out.strip() == "main"
    assert done.code != 0
    assert "user.name" in done.err


# The builder


def test_a_second_build_has_nothing_to_do() -> None:
    done = subprocess.run([ROOT / "script" / "image"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"The image {IMAGE} is up to date.\n")


def test_without_an_engine_it_says_so_and_what_to_do() -> None:
    nowhere = {**os.environ, "DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    done = subprocess.run([ROOT / "script" / "image"], capture_output=True, text=True, timeout=60, env=nowhere)
    assert done.returncode == 1
    assert "No Docker engine answers" in done.stderr
    assert "systemctl start docker" in done.stderr
