"""What a student's server is told, and what the hub answers to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import requests
from hubs import docker
from students import Student

if TYPE_CHECKING:
    from conftest import Classroom

OWNER = "student1"


@pytest.fixture
def owner(classroom: Classroom) -> Student:
    """A student whose server runs."""
    return Student(classroom.hub, OWNER).started()


def test_a_students_container_knows_no_secret_of_the_hub(classroom: Classroom, owner: Student) -> None:
    hub = classroom.hub
    environment = docker("exec", classroom.lease_of(owner.name).container_id, "env")
    assert "JUPYTERHUB_API_TOKEN=" in environment  # its own, narrow one
    cookie_secret = (hub.folder / "state" / "cookie_secret").read_text().strip()
    for secret in (hub.password, cookie_secret, *hub.secrets):
        assert secret not in environment
    for name in ("CONFIGPROXY_AUTH_TOKEN", "IDLHUB_SETTINGS", "JPY_COOKIE_SECRET"):
        assert name not in environment


def test_the_servers_own_token_reaches_no_further_than_its_owner(classroom: Classroom, owner: Student) -> None:
    environment = docker("exec", classroom.lease_of(owner.name).container_id, "env")
    [token] = [line.split("=", 1)[1] for line in environment.splitlines() if line.startswith("JUPYTERHUB_API_TOKEN=")]
    answers = {
        path: requests.get(
            f"{classroom.hub.url}/hub/api{path}", headers={"Authorization": f"token {token}"}, timeout=10
        ).status_code
        for path in ("/user", "/users", "/users/student2", "/groups", "/proxy", "/services")
    }
    assert answers.pop("/user") == 200
    assert set(answers.values()) <= {403, 404}, answers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/hub/spawn/{OWNER}"),
        ("POST", f"/hub/spawn/{OWNER}"),
        ("GET", f"/hub/spawn-pending/{OWNER}"),
        ("GET", f"/hub/api/users/{OWNER}"),
        ("GET", f"/hub/api/users/{OWNER}/server/progress"),
        ("POST", f"/hub/api/users/{OWNER}/server"),
        ("DELETE", f"/hub/api/users/{OWNER}/server"),
        ("POST", f"/hub/api/users/{OWNER}/tokens"),
        ("GET", "/hub/admin"),
        ("GET", "/hub/api/users"),
    ],
)
@pytest.mark.usefixtures("owner")
def test_a_student_gets_nothing_of_another_students_server(classroom: Classroom, method: str, path: str) -> None:
    before = classroom.hub.leases(live=True)
    answer = Student(classroom.hub, "student2").request(method, path, json={} if "/api/" in path else None)
    assert answer.status_code in (403, 404), (answer.status_code, answer.text[:300])
    assert classroom.hub.leases(live=True) == before


def test_only_the_owner_enters_a_server(classroom: Classroom, owner: Student) -> None:
    assert may_enter(owner, OWNER)
    assert not may_enter(Student(classroom.hub, "student2"), OWNER)


@pytest.mark.usefixtures("owner")
def test_who_is_not_logged_in_is_sent_to_the_login_or_refused(classroom: Classroom) -> None:
    url = classroom.hub.url
    for path in ("/hub/home", "/hub/spawn", f"/hub/spawn/{OWNER}", f"/hub/spawn-pending/{OWNER}", "/hub/admin"):
        answer = requests.get(url + path, timeout=10, allow_redirects=False)
        assert answer.status_code == 302, path
        assert answer.headers["Location"].startswith("/hub/login"), path
    for path in ("/users", f"/users/{OWNER}", f"/users/{OWNER}/server/progress", "/groups", "/proxy"):
        assert requests.get(f"{url}/hub/api{path}", timeout=10).status_code == 403, path


@pytest.mark.parametrize("name", ["assistant", "lecturer"])
@pytest.mark.usefixtures("owner")
def test_assistants_and_lecturers_see_students_and_touch_no_server(classroom: Classroom, name: str) -> None:
    person = Student(classroom.hub, name)
    listed = person.request("GET", "/hub/api/users").json()
    students = {user["name"]: user for user in listed if user["name"].startswith("student")}
    assert set(students) == {f"student{number}" for number in range(1, 6)}
    assert students[OWNER]["servers"][""]["ready"]
    assert person.request("DELETE", f"/hub/api/users/{OWNER}/server").status_code in (403, 404)
    assert person.request("POST", "/hub/api/users/student2/server").status_code in (403, 404)
    assert not may_enter(person, OWNER)


def test_admins_stop_servers_and_do_not_enter_them(classroom: Classroom, owner: Student) -> None:
    admin = Student(classroom.hub, "admin")
    assert not may_enter(admin, owner.name)
    assert admin.request("DELETE", f"/hub/api/users/{owner.name}/server").status_code in (202, 204)


def may_enter(person: Student, owner: str) -> bool:
    """Whether the hub lets this person into somebody's server: the server sends its visitors here."""
    callback = f"/user/{owner}/oauth_callback"
    asked = {"client_id": f"jupyterhub-user-{owner}", "redirect_uri": callback, "response_type": "code", "state": "x"}
    answer = person.request("GET", "/hub/api/oauth2/authorize", params=asked)
    assert answer.status_code in (302, 403), (answer.status_code, answer.text[:300])
    return answer.status_code == 302 and f"{callback}?code=" in answer.headers["Location"]
