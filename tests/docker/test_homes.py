"""Homes in a shared folder, as a hub, a real engine and a real disk have them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hubs import Hub, docker, wait_for
from light import light_image
from student_sessions import StudentServer, student_server
from students import Student

from idl_hub.homes.store import MARKER

MIB = 2**20
SUDO = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
UID = 1000 if os.geteuid() == 0 else os.geteuid()
# Asked of the kernel that a browser would talk to, through its own sockets.
_ASK_KERNEL = """
from glob import glob
from jupyter_client import BlockingKernelClient
[connection] = glob("/var/local/idl_hub/runtime/kernel-*.json")
kernel = BlockingKernelClient(connection_file=connection)
kernel.load_connection_file()
kernel.start_channels()
kernel.wait_for_ready(timeout=30)
kernel.execute_interactive("print('answer', 6 * 7)", timeout=30)
"""


@dataclass(frozen=True)
class Course:
    """A hub and the folder of its homes."""

    hub: Hub
    homes: Path

    def start(self, student: Student) -> dict[str, Any]:
        """Start without a GPU and return how it ended."""
        return student.start(gpu="none")

    def container_of(self, student: Student) -> dict[str, Any]:
        """Return what the engine says of the student's container."""
        [lease] = [lease for lease in self.hub.leases(live=True) if lease.user == student.name]
        assert lease.container_id
        [found] = json.loads(docker("inspect", lease.container_id))
        return found  # type: ignore[no-any-return]

    def environment_of(self, student: Student) -> dict[str, str]:
        """Return the environment of the student's container."""
        pairs = [pair.partition("=") for pair in self.container_of(student)["Config"]["Env"]]
        return {name: value for name, _, value in pairs}

    def end(self, student: Student) -> None:
        """Stop the student's server and wait until nothing of it is left."""
        student.stop()
        wait_for(lambda: not self.hub.leftovers(), "the server to be gone")


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    folder = tmp_path_factory.mktemp("course")
    homes = folder / "homes"
    homes.mkdir(mode=0o711)
    (homes / MARKER).touch()
    settings = {
        "homes": {"directory": str(homes), "uid": UID, "gid": os.getegid() if UID != 1000 else 1000, "quota": "64MiB"},
        "spawner": {"image": light_image(), "stop_timeout_seconds": 1},
    }
    with Hub(folder / "hub", gpus=1, settings=settings) as hub:
        yield Course(hub, homes)


def test_a_student_finds_the_same_home_again(course: Course) -> None:
    student = Student(course.hub, "student1")
    assert course.start(student).get("ready")
    container = course.container_of(student)
    made = (course.homes / "student1").stat()
    assert (made.st_uid, made.st_mode & 0o777) == (UID, 0o700)
    write = ("exec", "--user", str(UID), container["Id"], "sh", "-c", "echo mine > /home/student/work.txt")
    docker(*write)
    assert (course.homes / "student1" / "work.txt").read_text() == "mine\n"
    sees = docker("exec", container["Id"], "sh", "-c", "cat /proc/mounts | cut -d ' ' -f 2")
    assert "/home/student" in sees.splitlines()
    assert str(course.homes) not in sees
    course.end(student)

    assert course.start(student).get("ready")
    again = course.container_of(student)["Id"]
    assert again != container["Id"]
    assert docker("exec", "--user", str(UID), again, "cat", "/home/student/work.txt") == "mine"
    course.end(student)


def test_without_the_mount_a_start_is_refused_in_clear_words_and_works_once_it_is_back(course: Course) -> None:
    student = Student(course.hub, "student2")
    (course.homes / MARKER).unlink()
    refused = course.start(student)
    assert refused.get("failed")
    assert "not mounted on the hub" in refused["message"]
    assert "no server was started without them" in refused["message"]
    wait_for(lambda: not course.hub.leftovers(), "nothing to be left of the refused start")
    assert not (course.homes / "student2").exists()

    (course.homes / MARKER).touch()
    assert course.start(student).get("ready")
    course.end(student)


def test_who_is_over_the_quota_is_told_before_the_start_and_starts_to_clean_up(course: Course) -> None:
    student = Student(course.hub, "student3")
    assert course.start(student).get("ready")
    assert course.environment_of(student)["IDLHUB_HOME_QUOTA"] == str(64 * MIB)
    assert "IDLHUB_CLEAN_UP" not in course.environment_of(student)
    course.end(student)
    assert "64 MB of 64 MB free in your home" in student.start_page()

    (course.homes / "student3" / "model.h5").write_bytes(b"x" * 60 * MIB)
    assert course.start(student).get("ready")
    assert course.environment_of(student)["IDLHUB_CLEAN_UP"] == "1"
    assert "Your home is full (60 MB of 64 MB)" in student.request("GET", "/hub/home").text
    course.end(student)
    assert "Your home is full (60 MB of 64 MB)" in student.start_page()

    (course.homes / "student3" / "model.h5").unlink()
    assert course.start(student).get("ready")
    assert "IDLHUB_CLEAN_UP" not in course.environment_of(student)
    course.end(student)


def test_a_link_in_the_place_of_a_home_starts_nothing(course: Course) -> None:
    student = Student(course.hub, "student4")
    (course.homes / "student4").symlink_to("/etc")
    refused = course.start(student)
    assert "it is a link or a file, not a folder" in refused["message"]
    wait_for(lambda: not course.hub.leftovers(), "nothing to be left of the refused start")
    (course.homes / "student4").unlink()


@contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """Mount a small disk that has no byte left, but for what is in its files."""
    folder.mkdir()
    subprocess.run([*SUDO, "mount", "-t", "tmpfs", "-o", "size=20m,mode=777", "tmpfs", str(folder)], check=True)
    try:
        (folder / "model.h5").write_bytes(b"x" * 15 * MIB)
        with pytest.raises(OSError, match="No space left"):
            (folder / "rest").write_bytes(b"x" * 15 * MIB)
        subprocess.run([*SUDO, "chown", "-R", "1000:1000", str(folder)], check=True)
        yield folder
    finally:
        subprocess.run([*SUDO, "umount", "--lazy", str(folder)], check=True)


def told_of_home(server: StudentServer, what: str) -> Any:
    """Return what the student's JupyterLab is told of the home."""
    return server.get("idl-hub/me")["home"][what]


def test_on_a_full_disk_the_student_image_starts_and_its_kernels_run(tmp_path: Path) -> None:
    with full_disk(tmp_path / "home") as home:
        names = sorted(path.name for path in home.iterdir())
        wanted = {"IDLHUB_CLEAN_UP": "1", "IDLHUB_TRIAL_EXERCISE": "1"}
        with student_server(str(home), env=wanted) as server:
            server.post("api/kernels")
            assert "answer 42" in server.session.python(_ASK_KERNEL).out, server.session.log()
            told = wait_for(lambda: told_of_home(server, "largest"), "the largest files to be found")
            assert [item["path"] for item in told] == ["model.h5", "rest"]
            assert told_of_home(server, "state") == "full"
            assert sorted(path.name for path in home.iterdir()) == names
            # Deleting in the file browser makes room: nothing goes to a trash in the same home.
            server.delete("api/contents/rest")
            assert told_of_home(server, "free_bytes") >= 4 * MIB
            assert not (home / "rest").exists()
            assert not (home / ".local").exists()
