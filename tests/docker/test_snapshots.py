"""Earlier versions on a real hub: what a container sees of them, and who may have what from the REST interface."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from hubs import ROOT, Hub, docker, wait_for
from light import light_image
from snapshot_homes import World, world
from students import Student

from idl_hub.people import SERVER_TOKEN_SCOPES

PREFIX = "/services/web/"
MIB = 2**20
_SPACE = ROOT / "idl_hub" / "homes" / "space.py"


@dataclass(frozen=True)
class Course:
    """A hub, its homes and their copies."""

    hub: Hub
    world: World

    def container_of(self, name: str) -> str:
        """Return the id of somebody's container."""
        (lease,) = [lease for lease in self.hub.leases(live=True) if lease.user == name]
        assert lease.container_id
        return lease.container_id

    def token(self, name: str, scopes: tuple[str, ...] = ()) -> str:
        """Return a token of a person, with all they may or these scopes."""
        answer = self.hub.api("POST", f"/users/{name}/tokens", {"scopes": list(scopes)} if scopes else {})
        assert answer.ok, answer.text
        return str(answer.json()["token"])

    def call(self, method: str, path: str, token: str) -> requests.Response:
        """Call the REST interface; `path` goes as it is, without a client's own ideas of tidiness."""
        url = f"{self.hub.url}{PREFIX}api/versions{path}"
        request = requests.Request(method, url, headers={"Authorization": f"token {token}"}).prepare()
        request.url = url
        with requests.Session() as session:
            return session.send(request, timeout=30, allow_redirects=False)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    folder = tmp_path_factory.mktemp("earlier")
    here = world(folder)
    here.now = datetime.now(UTC) - timedelta(minutes=30)
    for name in ("student1", "student2"):
        (here.home(name) / "notebook.ipynb").write_text(f"of {name}")
        os.chown(here.home(name), here.snapshots.owner.uid, here.snapshots.owner.gid)
        (here.home(name) / "notebook.ipynb").chmod(0o644)
    (here.home("student1") / "escape").symlink_to(here.folder / "homes" / "student2")
    (here.home("student1") / "big.bin").write_bytes(b"x" * 3 * MIB)
    here.take()
    (here.home("student1") / "big.bin").unlink()
    settings = {
        "homes": here.settings.homes.model_dump(mode="json"),
        "spawner": {"image": light_image(), "stop_timeout_seconds": 1},
    }
    with Hub(folder / "hub", gpus=1, students=3, settings=settings) as hub:
        yield Course(hub, here)
        print(hub.log_tail())


def test_a_container_shows_its_own_copies_alone_and_nobody_can_change_them(course: Course) -> None:
    student = Student(course.hub, "student1")
    assert student.start(gpu="none").get("ready")
    container = course.container_of("student1")
    name = course.world.copies("student1")[-1].name

    def inside(command: str) -> str:
        return docker("exec", "--user", str(course.world.snapshots.owner.uid), container, "sh", "-c", command)

    assert inside("ls /home/student/.snapshots").split() == [name]
    assert inside(f"cat /home/student/.snapshots/{name}/notebook.ipynb") == "of student1"
    for change in (f"rm -rf /home/student/.snapshots/{name}", f"touch /home/student/.snapshots/{name}/more"):
        assert "Read-only file system" in inside(f"{change} 2>&1 || true")
    assert "of student2" not in inside("cat /home/student/.snapshots/*/escape/notebook.ipynb 2>&1 || true")
    inside(f"rm /home/student/notebook.ipynb; cp -a /home/student/.snapshots/{name}/notebook.ipynb /home/student/")
    assert inside("cat /home/student/notebook.ipynb") == "of student1"

    # They are no part of the home when its space is counted, though they lie on the same disk.
    measure = _SPACE.read_text() + "\nprint(count_used('/home/student', 20), find_largest('/home/student', 20))\n"
    counting = ["docker", "exec", "-i", "--user", str(course.world.snapshots.owner.uid), container, "python3", "-"]
    counted = subprocess.run(counting, input=measure, capture_output=True, text=True, timeout=60)
    used, largest = counted.stdout.split(maxsplit=1)
    assert (int(used) < MIB, largest.strip()) == (True, "()"), counted

    # A copy that is taken while the server runs shows without a restart, and holds no copies itself.
    inside("echo more > /home/student/more.txt")
    taken = course.world.take("student1", later=0.25)["student1"]
    assert taken.snapshot
    assert inside("cat /home/student/.snapshots/*/more.txt") == "more"
    assert inside("ls -d /home/student/.snapshots/*/.snapshots 2>&1 || true").endswith("No such file or directory")
    student.stop()
    wait_for(lambda: not course.hub.leftovers(), "the server to be gone")


def test_everybody_is_told_of_their_own_home_and_of_no_other(course: Course) -> None:
    for name in ("student1", "student2"):
        token = course.token(name)
        listed = course.call("GET", "", token).json()
        assert [one["name"] for one in listed["versions"]] == [
            copy.name for copy in reversed(course.world.copies(name))
        ]
        copy = course.world.copies(name)[0].name
        assert course.call("GET", f"/{quote(copy)}/file?path=notebook.ipynb", token).text == f"of {name}"
    copy = course.world.copies("student2")[0].name
    for name in ("lecturer", "assistant", "admin", "student3"):
        token = course.token(name)
        assert course.call("GET", "", token).json()["versions"] == []
        for method, path in (("GET", "folder"), ("GET", "file?path=notebook.ipynb"), ("POST", "restore?path=x")):
            answer = course.call(method, f"/{quote(copy)}/{path}", token)
            assert answer.status_code in {404, 409}, answer.text
            assert "of student2" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["../student2/notebook.ipynb", "%2e%2e/student2/notebook.ipynb", "..%2Fstudent2", "/etc/passwd", "%2Fetc%2Fpasswd",
     "escape/notebook.ipynb", "a%00b", "%FF%FE", "x" * 300, "a//b", "notebook.ipynb/"],
)  # fmt: skip
def test_no_path_leads_out_of_a_copy_or_a_home(course: Course, path: str) -> None:
    token = course.token("student1")
    copy = quote(course.world.copies("student1")[0].name)
    before = sorted(course.world.home("student2").iterdir())
    for method, what in (("GET", "file"), ("GET", "folder"), ("POST", "restore")):
        answer = course.call(method, f"/{copy}/{what}?path={path}", token)
        assert answer.status_code in {400, 404, 409}, (what, answer.text)
        assert "of student2" not in answer.text
        assert "root:" not in answer.text
        assert answer.json()["message"]
    assert sorted(course.world.home("student2").iterdir()) == before


@pytest.mark.parametrize("name", ["..", ".", "%2e%2e", "..%2Fstudent2", "2026-11-22T1740+0100", ".checked", "x"])
def test_no_name_of_a_copy_leads_elsewhere(course: Course, name: str) -> None:
    token = course.token("student1")
    for method, what in (("GET", "folder"), ("GET", "differences"), ("POST", "restore?path=notebook.ipynb")):
        answer = course.call(method, f"/{name}/{what}", token)
        assert answer.status_code in {404, 409}, answer.text


def test_names_that_are_no_text_come_back_all_the_same(course: Course) -> None:
    home = course.world.home("student1")
    odd = Path(os.fsdecode(os.fsencode(home) + b"/\xff\xfe %+.txt"))
    odd.write_text("odd")
    os.utime(odd, (2**40, 2**33))
    course.world.take("student1", later=0.02)
    odd.unlink()
    token = course.token("student1")
    copy = quote(course.world.copies("student1")[-1].name)
    (entry,) = course.call("GET", f"/{copy}/differences", token).json()["entries"]
    assert entry["path"] == "%FF%FE%20%25%2B.txt"
    assert course.call("GET", f"/{copy}/file?path={entry['path']}", token).content == b"odd"
    done = course.call("POST", f"/{copy}/restore?path={entry['path']}", token)
    assert done.json()["state"] == "done"
    assert odd.read_text() == "odd"
    assert odd.stat().st_uid == course.world.snapshots.owner.uid


def test_a_file_is_sent_to_be_stored_and_never_to_be_shown(course: Course) -> None:
    page = course.world.home("student1") / "page.html"
    page.write_text("<script>alert(1)</script>")
    course.world.take("student1", later=0.02)
    copy = quote(course.world.copies("student1")[-1].name)
    answer = course.call("GET", f"/{copy}/file?path=page.html", course.token("student1"))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''page.html"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("sandbox")
    assert answer.headers["Content-Length"] == str(len(answer.content)) == "25"


def test_a_students_server_may_ask_for_its_owner_and_strangers_and_services_may_not(course: Course) -> None:
    scopes = tuple(scope for scope in SERVER_TOKEN_SCOPES if "!server" not in scope)
    assert course.call("GET", "", course.token("student1", scopes)).json()["versions"]
    assert course.call("GET", "", course.token("admin", ("list:users",))).status_code == 403
    assert course.call("GET", "", "not-a-token").status_code == 403
    service = course.call("GET", "", course.hub.secrets[1])
    assert service.status_code == 403


def test_a_browser_needs_the_xsrf_token_to_bring_something_back(course: Course) -> None:
    session = course.hub.session("student1")
    page = session.get(f"{course.hub.url}{PREFIX}versions", timeout=30)
    xsrf = page.text.split('data-xsrf="')[1].split('"')[0]
    session.headers.pop("X-XSRFToken")
    copy = quote(course.world.copies("student1")[0].name)
    url = f"{course.hub.url}{PREFIX}api/versions/{copy}/restore?path=notebook.ipynb"
    assert session.post(url, timeout=30).status_code == 403
    assert session.post(url, headers={"X-XSRFToken": "x" + xsrf[1:]}, timeout=30).status_code == 403
    assert session.post(url, headers={"X-XSRFToken": xsrf}, timeout=30).json()["state"] == "done"


def test_when_the_disk_of_copies_is_away_it_is_told_and_servers_start_all_the_same(course: Course) -> None:
    folder = course.world.folder / "snapshots"
    folder.rename(folder.with_name("away"))
    try:
        answer = course.call("GET", "", course.token("student2"))
        assert answer.status_code == 503
        assert "does not answer right now" in answer.json()["message"]
        student = Student(course.hub, "student2")
        assert student.start(gpu="none").get("ready")
        student.stop()
        wait_for(lambda: not course.hub.leftovers(), "the server to be gone")
    finally:
        folder.with_name("away").rename(folder)
    assert course.call("GET", "", course.token("student2")).json()["versions"]
