"""What one container may do to its neighbours, to the server and to itself."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from hubs import Hub, docker, wait_for
from light import light_image
from students import Student

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 2**20
MEMORY_BYTES = 512 * MIB
PIDS = 100
TEMPORARY_BYTES = 128 * MIB
LOG_BYTES = 10 * MIB
FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
MEMORY_HOG = "while true; do python3 -c 'hoard = [bytearray(10**7) for _ in range(1000)]'; done"
DISK_FILLER = """
yes 'fills the log' > /proc/1/fd/1 &
while true; do dd if=/dev/zero of=/tmp/filler bs=1M; done 2>/dev/null
"""
WRITABLE_IN_IMAGE = "find / -xdev '(' -type d -o -type f ')' -writable 2>/dev/null || true"
# What is written to and lies on a disk: each place that this user may change and that is not in memory.
WRITABLE_ON_DISK = """
import os
in_memory = {"tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs"}
mounts = [line.split()[1:3] for line in open("/proc/mounts")]
print(*(place for place, kind in mounts if kind not in in_memory and os.access(place, os.W_OK)))
"""
# A kernel that takes more memory than there is, once: what its restart would repeat shows nothing.
HOG_IN_A_KERNEL = """
import pathlib, threading
once = pathlib.Path.home() / "hogged"
if not once.exists():
    once.touch()
    threading.Timer(1, lambda: [bytearray(10**7) for _ in range(1000)]).start()
"""
CONFIG = """
def choose_image(spawner):
    if spawner.user.name == "student5":
        spawner.image = "idl-hub/student:latest"


c.Spawner.pre_spawn_hook = choose_image
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    limits = {
        "image": light_image(),
        "memory_limit": MEMORY_BYTES,
        "pids_limit": PIDS,
        "temporary_space": TEMPORARY_BYTES,
        "shared_memory": 1024 * MIB,
        "stop_timeout_seconds": 1,
    }
    folder = tmp_path_factory.mktemp("limits")
    with Hub(folder / "hub", gpus=5, students=5, settings={"spawner": limits}, config=CONFIG) as hub:
        yield hub


@dataclass(frozen=True)
class Running:
    """A student with a running server."""

    student: Student
    container: str

    def run(self, *command: str) -> str:
        return docker("exec", self.container, *command)

    def run_beside(self, *command: str) -> None:
        docker("exec", "--detach", self.container, *command)

    def inspect(self) -> dict[str, Any]:
        [shown] = json.loads(docker("inspect", "--size", self.container))
        return shown  # type: ignore[no-any-return]

    def kills(self) -> int:
        """Return how often the kernel ended a program here because memory had run out."""
        files = "/sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events"
        counters = self.run("sh", "-c", f"cat {files} 2>/dev/null || true")
        [kills] = re.findall(r"^oom_kill (\d+)$", counters, re.MULTILINE)
        return int(kills)


def start(hub: Hub, name: str) -> Running:
    student = Student(hub, name).started(gpu="none")
    [lease] = [lease for lease in hub.leases(live=True) if lease.user == name]
    assert lease.container_id is not None
    return Running(student, lease.container_id)


@pytest.fixture(scope="module")
def neighbour(hub: Hub) -> Running:
    return start(hub, "student1")


def answer_times(student: Student, seconds: float) -> list[float]:
    """Ask a student's server again and again for so long; return how many seconds each answer took."""
    times = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        assert student.ask_server().ok
        times.append(time.monotonic() - began)
    return times


def engine_times(count: int = 3) -> list[float]:
    """List the engine's containers so many times; return how many seconds each took."""
    times = []
    for _ in range(count):
        began = time.monotonic()
        docker("ps")
        times.append(time.monotonic() - began)
    return times


def processes(container: str) -> int:
    return len(docker("top", container, "-o", "pid").splitlines()) - 1


def assert_unharmed(neighbour: Running, before: Sequence[float]) -> None:
    """Fail when neighbour or engine answer much later than in quieter times."""
    during, engine = answer_times(neighbour.student, 3), engine_times()
    print(f"neighbour {statistics.median(before):.4f} -> {statistics.median(during):.4f} s, engine {engine}")
    assert statistics.median(during) < statistics.median(before) + 0.25
    assert max(during) < 5
    assert statistics.median(engine) < 2


def test_a_fork_bomb_stays_in_its_container(hub: Hub, neighbour: Running) -> None:
    before = answer_times(neighbour.student, 1)
    bomber = start(hub, "student2")
    bomber.run_beside("python3", "-c", FORK_BOMB)
    wait_for(lambda: processes(bomber.container) >= PIDS - 5, "the bomb to go off")
    assert_unharmed(neighbour, before)
    assert processes(bomber.container) <= PIDS
    # ... and the way out for its student is the hub's, which needs no process there.
    assert bomber.student.stop().status_code in (202, 204)
    wait_for(lambda: bomber.container not in hub.containers(), "the bomber's server to be gone", 60)


def test_a_memory_hog_is_ended_again_and_again_and_nothing_else_is(hub: Hub, neighbour: Running) -> None:
    before = answer_times(neighbour.student, 1)
    hog = start(hub, "student3")
    hog.run_beside("sh", "-c", MEMORY_HOG)
    wait_for(lambda: hog.kills() >= 2, "the hog to be ended twice")
    assert_unharmed(neighbour, before)
    assert hog.inspect()["State"]["Running"]
    assert hog.student.ask_server().ok
    assert neighbour.kills() == 0


def test_who_fills_the_disk_fills_nothing_but_own_memory(hub: Hub, neighbour: Running) -> None:
    before = answer_times(neighbour.student, 1)
    filler = start(hub, "student4")
    # The home is what the quota is for.
    assert filler.run("python3", "-c", WRITABLE_ON_DISK).split() == ["/home/student"]
    assert set(filler.run("sh", "-c", WRITABLE_IN_IMAGE).split()) == {"/home/student", "/tmp", "/var/local/idl_hub"}

    filler.run_beside("sh", "-c", DISK_FILLER)
    logs = f"/logs/{filler.container}-json.log"
    # The engine's own folder may be read by root alone, and by who may start containers.
    folder = str(Path(filler.inspect()["LogPath"]).parent)
    look = ("run", "--rm", "--user=root", "--network=none", f"--volume={folder}:/logs:ro", light_image())
    wait_for(lambda: docker(*look, "sh", "-c", f"ls {logs}*").count(logs) == 2, "the log to be begun anew", 60)
    assert_unharmed(neighbour, before)
    used, size = filler.run("df", "--output=used,size", "--block-size=1", "/tmp").split()[-2:]
    assert (int(size), int(used) > 0) == (TEMPORARY_BYTES, True)
    kept = sum(int(line.split()[0]) for line in docker(*look, "sh", "-c", f"du --bytes {logs}*").splitlines())
    assert kept < LOG_BYTES + MIB
    assert filler.inspect()["SizeRw"] < MIB
    assert filler.student.stop().status_code in (202, 204)


def test_core_dumps_are_off(neighbour: Running) -> None:
    assert neighbour.run("sh", "-c", "ulimit -c; ulimit -H -c").split() == ["0", "0"]


def ask(hub: Hub, method: str, path: str, body: Any = None) -> requests.Response:
    """Ask student5's Jupyter server, as somebody who may."""
    headers = {"Authorization": f"token {hub.secrets[1]}"}
    return requests.request(method, f"{hub.url}/user/student5/{path}", json=body, headers=headers, timeout=30)


def test_a_kernel_that_takes_all_memory_is_ended_before_its_server_which_says_so(hub: Hub) -> None:
    student = start(hub, "student5")
    started_at = student.inspect()["State"]["StartedAt"]
    startup = ".ipython/profile_default/startup"
    student.run("sh", "-c", f'mkdir -p {startup} && printf %s "$1" > {startup}/hog.py', "sh", HOG_IN_A_KERNEL)
    wanted = {"path": "hog.ipynb", "name": "hog.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
    made = ask(hub, "POST", "api/sessions", wanted)
    assert made.status_code == 201, made.text

    def killed() -> Any:
        return ask(hub, "GET", "idl-hub/me").json()["killed"]

    told = wait_for(killed, "the server to say that the kernel was ended", 40)
    assert (told["kernels"], told["kills"], told["at_limit"]) == (["hog.ipynb"], 1, True)
    assert told["limit_bytes"] == MEMORY_BYTES
    assert told["most_used_bytes"] > 0.95 * MEMORY_BYTES
    assert student.inspect()["State"]["StartedAt"] == started_at
    # The kernel is there again, and its successors would be ended before the server, too.
    scores = "for each in /proc/[0-9]*; do echo $(cat $each/oom_score_adj) $(tr '\\0' ' ' < $each/cmdline); done"

    def scores_of_kernels() -> list[str]:
        return re.findall(r"^(\d+) .*ipykernel_launcher", student.run("sh", "-c", scores), re.MULTILINE)

    assert wait_for(scores_of_kernels, "the kernel to be started anew") == ["500"]

    assert ask(hub, "POST", "idl-hub/note-kills", {"kills": told["kills"]}).status_code == 204
    assert killed() is None


def test_a_server_that_ended_for_its_memory_is_explained_where_it_is_started_again(
    hub: Hub, neighbour: Running
) -> None:
    # What lies in memory is nobody's in particular: whoever is ended for it, it stays.
    neighbour.run_beside("dd", "if=/dev/zero", "of=/dev/shm/filler", "bs=1M")
    wait_for(lambda: neighbour.container not in hub.containers(), "the server to end", 60)
    words = "it was killed because it used 0.5 of 0.5 GB of memory"
    [ending] = [lease.ending for lease in hub.leases() if lease.container_id == neighbour.container]
    assert ending == words
    for page in ("/hub/home", "/hub/user/student1/lab"):
        shown = neighbour.student.request("GET", page, allow_redirects=True).text
        assert "Your last server ended on" in shown
        assert words in shown
