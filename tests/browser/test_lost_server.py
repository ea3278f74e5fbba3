"""A server that does not answer, as its student sees it in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import silent_servers
from browser.person import Person
from hubs import wait_for
from playwright.sync_api import expect
from silent_servers import OTHER, SILENT, Room


@pytest.fixture(scope="module")
def one_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    yield from silent_servers.start(tmp_path_factory.mktemp("lost"), fence=False)


@pytest.fixture
def room(one_room: Room) -> Iterator[Room]:
    yield one_room
    one_room.empty()


def test_a_student_reads_that_the_server_does_not_answer_and_starts_elsewhere(
    room: Room, visit: Callable[..., Person]
) -> None:
    student = visit(room.hub, "student1")
    page = student.page
    student.log_in()
    student.choose("Without a GPU")
    wait_for(lambda: [phase for _, _, phase in room.leases(SILENT)] == ["running"], "the server")
    room.door.close()
    page.goto(f"{room.hub.url}/hub/home")
    wait_for(
        lambda: page.reload() and page.get_by_role("heading", name=f"{SILENT} does not answer").is_visible(),
        "the home page to say it",
    )
    expect(page.get_by_text(f"{SILENT}, where your server runs, has not answered since")).to_be_visible()
    page.get_by_role("link", name=re.compile("Wait or start elsewhere|What does that mean")).click()

    # After the grace time the page offers the choice by itself, and says plainly what it risks.
    start = page.get_by_role("button", name="Start elsewhere")
    expect(start).to_be_visible()
    expect(page.get_by_text("they can overwrite what you write from now on")).to_be_visible()
    expect(start).to_be_disabled()
    for width, scheme in ((320, "light"), (1280, "dark"), (1280, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        expect(page.locator("html")).to_have_attribute("data-bs-theme", scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    student.picture("lost-server")

    page.get_by_role("checkbox", name=re.compile("I understand")).check()
    start.click()
    page.wait_for_url(re.compile(r"/(hub/spawn-pending|user)/student1"))
    wait_for(lambda: [phase for _, _, phase in room.leases(OTHER)] == ["running"], "the new server")
    assert [phase for _, _, phase in room.leases(SILENT)] == ["lost"]
    room.door.open()
    wait_for(lambda: not room.leases(SILENT), "the old server to be removed")
    page.goto(f"{room.hub.url}/hub/home")
    expect(page.get_by_role("heading", name="Your server is running")).to_be_visible()


def test_the_proxys_error_page_leads_to_the_page_that_knows_why(room: Room, visit: Callable[..., Person]) -> None:
    student = visit(room.hub, "student2")
    student.log_in()
    student.choose("Without a GPU")
    wait_for(lambda: [phase for _, _, phase in room.leases(SILENT)] == ["running"], "the server")
    # The route leads to a port where nobody listens, as when the server's machine is off.
    api = room.hub.settings["hub"]["proxy_api_port"]
    room.reroute(f"http://127.0.0.1:{api}/api/routes/user/student2", "http://127.0.0.1:9")
    student.page.goto(f"{room.hub.url}/user/student2/lab")
    expect(student.page).to_have_url(re.compile("/services/web/lost$"))
    expect(student.page.get_by_text(f"{SILENT}, where your server runs, answers the hub")).to_be_visible()
