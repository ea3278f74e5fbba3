"""A domain for each user: everything works, and pages of one student can read nothing of another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from browser.person import START_MILLISECONDS, Person
from hubs import Hub, wait_for
from playwright.sync_api import Page, expect

HUB = "http://hub.test:PORT"
# What a page could try against a server of somebody who looks at it, or against the hub.
_TRY = """async ([target, api, open]) => {
  const tried = {};
  const note = async (name, attempt) => {
    try { tried[name] = await attempt(); } catch (error) { tried[name] = error.name; }
  };
  await note('read', async () => (await fetch(target + api, {credentials: 'include'})).status);
  await note('read with token', async () => {
    const opened = window.open(target + open);
    try {
      for (let turn = 0; turn < 200; turn += 1) {
        await new Promise((done) => setTimeout(done, 50));
        const held = opened.document.cookie.split('; ').find((cookie) => cookie.startsWith('_xsrf='));
        if (!held || opened.location.href === 'about:blank') continue;
        const answer = await fetch(target + api, {credentials: 'include', headers: {'X-XSRFToken': held.slice(6)}});
        return answer.status;
      }
      return 'no token';
    } finally {
      opened.close();
    }
  });
  return tried;
}"""
# An image: what a student's server sends, and to whom, is up to the student, but this one needs no login.
_OPEN_TO_ALL = "/static/logo/logo.png"
_LISTEN = """(address) => new Promise((done) => {
  const socket = new WebSocket(address.replace(/^http/, 'ws'));
  socket.onopen = () => { socket.close(); done('open'); };
  socket.onerror = () => done('refused');
})"""
_POST = "(address) => fetch(address, {method: 'POST', mode: 'no-cors', credentials: 'include'}).then(() => null)"


@pytest.fixture(scope="module")
def browser_arguments() -> list[str]:
    return ["--host-resolver-rules=MAP *.hub.test 127.0.0.1, MAP hub.test 127.0.0.1"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """One hub with domains and a single GPU for all tests here; each uses other students."""
    folder: Path = tmp_path_factory.mktemp("subdomains")
    with Hub(folder, gpus=1, students=5, settings={"hub": {"subdomain_host": HUB}}) as hub:
        yield hub
        print(hub.log_tail())


def origin(hub: Hub, name: str) -> str:
    return hub.browser_url.replace("//hub.test", f"//{name}.hub.test")


def test_from_login_over_line_and_map_to_the_lab_each_on_its_own_domain(hub: Hub, visit: Callable[..., Person]) -> None:
    first, second, lecturer = visit(hub, "student1"), visit(hub, "student2"), visit(hub, "lecturer")
    web = origin(hub, "web--service") + "/services/web/"

    first.log_in()
    expect(first.page).to_have_url(f"{hub.browser_url}/hub/spawn")
    first.choose("With a GPU")
    first.wait_for_lab()
    assert first.page.url.startswith(f"{origin(hub, 'student1')}/user/student1/lab")
    assert [gpu["index"] for gpu in first.get("/idl-hub/me")["gpus"]] == [0]

    # The only GPU is taken: the place in the line is shown where the pages of the GPUs are.
    second.log_in()
    second.choose("With a GPU")
    expect(second.page).to_have_url(f"{web}line", timeout=START_MILLISECONDS)
    expect(second.page.get_by_text("Number 1 of 1")).to_be_visible()

    lecturer.log_in()
    lecturer.page.get_by_role("link", name="GPUs").click()
    expect(lecturer.page).to_have_url(web)
    expect(lecturer.page.get_by_role("button", name="GPU 0 of this machine, taken by student1")).to_be_visible()
    expect(lecturer.page.get_by_role("row").filter(has_text="student2")).to_be_visible()

    second.page.get_by_role("button", name="Start now without a GPU").click()
    second.wait_for_lab()
    assert second.page.url.startswith(f"{origin(hub, 'student2')}/user/student2/lab")
    expect(lecturer.page.get_by_text("Nobody waits.")).to_be_visible()  # told by events, without a reload

    second.page.goto(f"{web}line")
    second.page.get_by_role("link", name="Open JupyterLab").click()
    second.page.wait_for_url(f"{origin(hub, 'student2')}/user/student2/lab**", wait_until="commit")


def start(hub: Hub, name: str) -> None:
    """Start a student's server without a GPU and wait until it runs."""
    hub.api("POST", f"/users/{name}/server", {"gpu": "none"}).raise_for_status()
    wait_for(lambda: hub.api("GET", f"/users/{name}").json()["servers"][""]["ready"], f"the server of {name}", 60)


def test_a_page_on_one_students_domain_reads_neither_anothers_server_nor_the_hub(
    hub: Hub, visit: Callable[..., Person]
) -> None:
    start(hub, "student3")
    start(hub, "student4")
    victim = visit(hub, "student4")
    page = victim.page
    victim.log_in()
    theirs, own = (f"{origin(hub, name)}/user/{name}" for name in ("student3", "student4"))
    page.goto(f"{own}/lab")  # now the browser has the cookies of the server, too

    # On a page of their own origin the attempts succeed: cookies are there, and the way is the right one.
    # With one domain for all, every student's page would be of this origin.
    page.goto(own + _OPEN_TO_ALL)
    assert attempts(page, own, "/api/contents", "/lab") == {"read": 200, "read with token": 200}
    assert page.evaluate(_LISTEN, f"{own}/api/events/subscribe") == "open"

    page.goto(theirs + _OPEN_TO_ALL)
    assert page.evaluate("location.origin") == origin(hub, "student3")
    in_vain = {"read": "TypeError", "read with token": "SecurityError"}  # CORS; a window of another origin
    assert attempts(page, own, "/api/contents", "/lab") == in_vain
    assert attempts(page, hub.browser_url, "/hub/api/user", "/hub/home") == in_vain
    assert page.evaluate(_LISTEN, f"{own}/api/events/subscribe") == "refused"
    before = tokens(hub, "student4")
    page.evaluate(_POST, f"{hub.browser_url}/hub/api/users/student4/tokens")
    assert tokens(hub, "student4") == before
    page.evaluate(_POST, f"{own}/api/terminals")

    page.goto(own + _OPEN_TO_ALL)
    assert victim.get("/api/terminals") == []


def tokens(hub: Hub, name: str) -> set[str]:
    return {token["id"] for token in hub.api("GET", f"/users/{name}/tokens").json()["api_tokens"]}


def attempts(page: Page, target: str, api: str, open_: str) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(_TRY, [target, api, open_])
    return found


def test_the_hubs_own_pages_are_on_no_domain_but_the_hubs(hub: Hub, visit: Callable[..., Person]) -> None:
    page = visit(hub, "").page
    page.goto(f"{origin(hub, 'student1')}/hub/login?next=%2Fhub%2Fhome")
    expect(page).to_have_url(f"{hub.browser_url}/hub/login?next=%2Fhub%2Fhome")
    # Whatever is sent there by somebody who was led astray is not looked at.
    host = {"Host": origin(hub, "student1").removeprefix("http://")}
    form = {"username": "student1", "password": hub.password}
    answer = requests.post(f"{hub.url}/hub/login", data=form, headers=host, allow_redirects=False, timeout=10)
    assert answer.status_code == 421
    assert not answer.cookies


def test_a_bookmark_of_a_server_that_does_not_run_leads_to_the_hub(hub: Hub, visit: Callable[..., Person]) -> None:
    student = visit(hub, "student5")
    student.log_in()
    student.page.goto(f"{origin(hub, 'student5')}/user/student5/lab")
    expect(student.page.get_by_role("heading", name="Your server is not running")).to_be_visible()
    assert student.page.url.startswith(f"{hub.browser_url}/hub/user/student5/lab")
