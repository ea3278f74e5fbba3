"""The map and the line in a real browser, over a made-up fleet of ten servers."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from browser.person import Person
from fleet_pages import uuid_of
from hubs import ROOT, wait_for
from pages import PREFIX, Pages, start, waiting
from playwright.sync_api import Page, expect

from idl_hub.db.tables import LeaseRow, OutOfServiceRow, TicketRow

AXE = ROOT / ".state" / "pages" / "node_modules" / "axe-core" / "axe.min.js"
# Counts elements that are made or removed; a tile that is updated in place makes none.
_COUNT = """() => {
  window.made = 0;
  new MutationObserver((changes) => {
    for (const change of changes)
      for (const node of [...change.addedNodes, ...change.removedNodes]) if (node.nodeType === 1) window.made += 1;
  }).observe(document.querySelector('#servers'), { childList: true, subtree: true });
}"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    yield from start(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def pages(running: Pages) -> Iterator[Pages]:
    running.reset()
    yield running
    for told in (running.hub.folder / "state").glob("silent-*"):
        told.unlink()


@pytest.fixture
def open_page(pages: Pages, visit: Callable[..., Person]) -> Callable[..., Page]:
    """Sign a person in and open the map, or another page."""

    def open_(name: str, path: str = "", **how: object) -> Page:
        person = visit(pages.hub, name, **how)
        person.log_in()
        expect(person.page.get_by_label("Password")).to_have_count(0)
        person.page.goto(f"{pages.hub.url}{PREFIX}{path}")
        return person.page

    return open_


def tile(page: Page, server: str, index: int):
    return page.get_by_role("button", name=re.compile(rf"^GPU {index} of {server},"))


def picture(page: Page, name: str) -> None:
    if os.environ.get("IDLHUB_SCREENSHOTS") == "1":
        page.screenshot(path=ROOT / "docs" / "images" / f"{name}.png")


def barriers(page: Page) -> list[str]:
    """Return what axe-core finds serious or critical."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def test_the_map_shows_every_gpu_with_load_memory_heat_holder_state_and_reason(open_page: Callable[..., Page]) -> None:
    page = open_page("admin")
    expect(tile(page, "gpu01", 0)).to_have_accessible_name(
        re.compile(r"taken by student1, load \d+ %, memory [\d.]+ of 11\.0 GiB, \d+ °C")
    )
    expect(page.locator(".idl-tile")).to_have_count(80)
    expect(page.locator(".idl-tile[data-state=free]")).to_have_count(22)
    expect(tile(page, "gpu03", 5)).to_have_accessible_name(re.compile("sick: it fell off the bus"))
    expect(tile(page, "gpu05", 7)).to_have_accessible_name(re.compile(r"out of service: fan is loud \(admin\)"))
    expect(page.get_by_role("region", name="gpu10")).to_contain_text("drained: new disk (admin)")
    expect(page.get_by_role("region", name="cpu01")).to_contain_text("no GPUs · 0 sessions")
    expect(page.get_by_role("heading", name="GPUs")).to_contain_text("simulated")
    curve = tile(page, "gpu01", 0).locator(".curve").get_attribute("d")
    assert curve
    assert 50 <= curve.count("L") <= 59
    page.set_viewport_size({"width": 1400, "height": 1000})
    picture(page, "map")


def test_tiles_change_in_place_every_second_and_nothing_is_made_anew(open_page: Callable[..., Page]) -> None:
    page = open_page("assistant")
    expect(page.locator(".idl-tile")).to_have_count(80)
    page.evaluate(_COUNT)
    button = tile(page, "gpu01", 0)
    button.focus()
    seen = set()

    def changed() -> bool:
        seen.add(button.get_attribute("aria-label"))
        return len(seen) >= 4

    wait_for(changed, "the tile to show new figures", 20)
    assert page.evaluate("window.made") == 0
    expect(button).to_be_focused()


def test_a_server_is_drained_and_brought_back_with_the_keyboard(pages: Pages, open_page: Callable[..., Page]) -> None:
    page = open_page("admin")
    page.get_by_role("button", name="Drain gpu02").press("Enter")
    dialog = page.get_by_role("dialog", name="Drain gpu02?")
    expect(dialog).to_contain_text("The 6 that run there go on.")
    page.keyboard.type("new fans")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="gpu02")).to_contain_text("drained: new fans (admin)")
    expect(page.get_by_role("status").filter(has_text="drain")).to_be_visible()
    expect(page.locator(".idl-tile[data-state=free]")).to_have_count(20)

    page.get_by_role("button", name="Bring gpu02 back").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Bring back").press("Enter")
    expect(page.get_by_role("region", name="gpu02")).not_to_contain_text("drained")


def test_cancelling_changes_nothing(pages: Pages, open_page: Callable[..., Page]) -> None:
    page = open_page("admin")
    for end in ("Escape", "Cancel"):
        page.get_by_role("button", name="Drain gpu02").click()
        dialog = page.get_by_role("dialog", name="Drain gpu02?")
        if end == "Escape":
            page.keyboard.press("Escape")
        else:
            dialog.get_by_role("button", name="Cancel").click()
        expect(dialog).to_be_hidden()
    asked = pages.database.transact(lambda session: session.query(TicketRow).count())
    assert asked == 3
    assert pages.call("GET", "api/fleet", pages.token("admin")).json()["servers"]["gpu02"]["drained"] is None


def test_a_gpu_is_excluded_with_a_reason_and_brought_back(open_page: Callable[..., Page]) -> None:
    page = open_page("admin")
    tile(page, "gpu02", 0).click()
    details = page.get_by_role("dialog", name="GPU 0 of gpu02")
    expect(details).to_contain_text(uuid_of("gpu02", 0))
    details.get_by_role("button", name="Exclude …").click()
    page.get_by_label("Reason, for others to read").fill("smells")
    page.get_by_role("button", name="Exclude", exact=True).click()
    expect(tile(page, "gpu02", 0)).to_have_accessible_name(re.compile(r"out of service: smells \(admin\)"))
    tile(page, "gpu02", 0).click()
    details.get_by_role("button", name="Bring back …").click()
    page.get_by_role("dialog").get_by_role("button", name="Bring back").click()
    expect(tile(page, "gpu02", 0)).to_have_attribute("data-state", "free")


def test_what_no_session_explains_is_named_and_can_be_ended(pages: Pages, open_page: Callable[..., Page]) -> None:
    mark = {"kind": "orphan", "target": uuid_of("gpu02", 1), "by": "hub", "since": time.time()}
    pages.add(OutOfServiceRow(reason="used by a container of nobody", **mark))
    page = open_page("admin")
    expect(tile(page, "gpu02", 1)).to_have_accessible_name(re.compile("used by a container of nobody"))
    tile(page, "gpu02", 1).click()
    page.get_by_role("button", name="End what runs there …").click()
    page.get_by_role("dialog").get_by_role("button", name="End it").click()
    expect(tile(page, "gpu02", 1)).to_have_attribute("data-state", "free")


def test_a_lecturer_ends_a_students_session_with_a_message_and_has_no_buttons_for_servers(
    pages: Pages, open_page: Callable[..., Page]
) -> None:
    page = open_page("lecturer")
    tile(page, "gpu01", 1).click()
    details = page.get_by_role("dialog", name="GPU 1 of gpu01")
    expect(details.get_by_role("button", name="Exclude …")).to_have_count(0)
    details.get_by_role("button", name="End the session …").click()
    page.get_by_label("Message for student2").fill("The exam begins")
    page.get_by_role("button", name="End the session", exact=True).click()
    expect(tile(page, "gpu01", 1)).not_to_have_accessible_name(re.compile("student2"))
    phase = pages.database.transact(lambda session: session.get_one(LeaseRow, "lease2").phase)
    assert phase == "ended"
    expect(page.get_by_role("button", name=re.compile("^Drain"))).to_have_count(0)


def test_an_assistant_sees_all_and_has_no_buttons(open_page: Callable[..., Page]) -> None:
    page = open_page("assistant")
    tile(page, "gpu01", 0).click()
    expect(page.get_by_role("dialog", name="GPU 0 of gpu01").get_by_role("button")).to_have_text(["Close"])
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name=re.compile("Drain|front|Remove"))).to_have_count(0)


def test_somebody_is_moved_to_the_front_of_the_line(open_page: Callable[..., Page]) -> None:
    page = open_page("lecturer")
    rows = page.locator("#line tr")
    expect(rows.first).to_contain_text("student57")
    page.get_by_role("button", name="Move student59 to the front").click()
    page.get_by_role("button", name="Move to the front", exact=True).click()
    expect(rows.first).to_contain_text("student59")
    expect(rows).to_have_count(3)


def test_a_server_that_falls_silent_is_shown_as_unknown_since_when(
    pages: Pages, open_page: Callable[..., Page]
) -> None:
    page = open_page("admin")
    expect(tile(page, "gpu04", 4)).to_have_attribute("data-state", "free")
    (pages.hub.folder / "state" / "silent-gpu04").touch()
    expect(page.get_by_role("region", name="gpu04")).to_contain_text(re.compile(r"no reading since \d\d:\d\d"))
    expect(tile(page, "gpu04", 4)).to_have_attribute("data-state", "unknown")


def test_a_lost_connection_says_since_when_and_comes_back_by_itself(
    pages: Pages, open_page: Callable[..., Page]
) -> None:
    page = open_page("admin")
    expect(page.locator(".idl-tile")).to_have_count(80)
    os.kill(pages.hub.web_pid, signal.SIGSTOP)
    try:
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text(re.compile(r"No connection since \d\d:\d\d"), timeout=30_000)
    finally:
        os.kill(pages.hub.web_pid, signal.SIGCONT)
    expect(alert).to_be_hidden(timeout=40_000)


def test_a_student_sees_their_own_gpu_the_free_count_and_no_other_name(open_page: Callable[..., Page]) -> None:
    page = open_page("student1")
    mine = page.get_by_role("region", name="Your GPU")
    expect(mine).to_contain_text("GPU 0 of gpu01")
    expect(mine).to_contain_text(re.compile(r"Load\s*\d+ %"))
    expect(page.get_by_role("region", name="All GPUs")).to_contain_text("22 of 80 free")
    expect(page.get_by_role("region", name="All GPUs")).to_contain_text("3 people wait")
    assert set(re.findall(r"student\d+", page.content())) == {"student1"}
    expect(page.locator(".idl-tile")).to_have_count(0)


def test_the_line_page_names_the_place_what_is_expected_and_leaves(
    pages: Pages, open_page: Callable[..., Page]
) -> None:
    page = open_page("student58", "line")
    expect(page.get_by_text("Number 2 of 3")).to_be_visible()
    expect(page.get_by_text(re.compile(r"Your turn is expected at \d\d:\d\d"))).to_be_visible()
    expect(page).to_have_title("2 of 3 - Waiting line - idl_hub")
    page.set_viewport_size({"width": 900, "height": 640})
    picture(page, "line")
    pages.database.transact(lambda session: setattr(session.get_one(TicketRow, "ticket0"), "ended_at", time.time()))
    expect(page.get_by_text("Number 1 of 2")).to_be_visible()

    page.get_by_role("button", name="Leave the line").click()
    expect(page.get_by_role("heading", name="You have left the line")).to_be_visible()
    expect(page.get_by_role("link", name="Start my server")).to_be_visible()


def test_start_now_without_a_gpu_leaves_the_line_and_starts(pages: Pages, open_page: Callable[..., Page]) -> None:
    page = open_page("student58", "line")
    with page.expect_request(re.compile(r"/hub/spawn/student58\?opt-gpu=none$")):
        page.get_by_role("button", name="Start now without a GPU").click()
    assert pages.database.transact(lambda session: session.get_one(TicketRow, "ticket1").state) == "left"


def test_when_the_turn_comes_title_notification_button_and_countdown_say_so(
    pages: Pages, open_page: Callable[..., Page]
) -> None:
    page = open_page("student58", "line", permissions=["notifications"])
    page.evaluate("() => { window.said = []; window.Notification = class { static permission = 'granted'; "
                  "constructor(title, { body }) { window.said.push(`${title}: ${body}`); } }; }")  # fmt: skip
    expect(page.get_by_text("Number 2 of 3")).to_be_visible()

    def ready(session: object) -> None:
        ticket = session.get_one(TicketRow, "ticket1")
        ticket.state, ticket.ready_at = "ready", time.time()

    pages.database.transact(ready)
    expect(page).to_have_title("● Your GPU is ready - idl_hub")
    expect(page.get_by_role("timer")).to_have_text(re.compile(r"^(10:00|9:\d\d)$"))
    link = page.get_by_role("link", name="Open JupyterLab")
    assert link.get_attribute("href") == "/user/student58/lab"
    assert page.evaluate("window.said") == [
        "Your GPU is ready: Open JupyterLab in time, or the GPU goes to the next in line."
    ]


def test_unknown_is_said_when_it_is_unknown(pages: Pages, open_page: Callable[..., Page]) -> None:
    pages.database.transact(lambda session: session.query(LeaseRow).update({"ends_at": None}))
    # More wait than there are sessions that could end for being idle.
    pages.add(*(waiting(number, f"student{number}") for number in range(100, 160)))
    pages.add(waiting(500, "student56"))
    page = open_page("student56", "line")
    expect(page.get_by_text("When it is your turn is unknown")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize(("name", "path"), [("admin", ""), ("student1", ""), ("student58", "line")])
def test_pages_fit_have_no_barriers_and_load_nothing_from_elsewhere(
    pages: Pages, open_page: Callable[..., Page], name: str, path: str, width: int, scheme: str
) -> None:
    page = open_page(name, path, color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    addresses: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.reload()
    expect(page.get_by_text(re.compile(r"^Loading|^Waiting for the first")).locator("visible=true")).to_have_count(0)
    assert page.evaluate("document.documentElement.dataset.bsTheme") == scheme
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert barriers(page) == []
    if name == "admin":
        tile(page, "gpu01", 0).click()
        expect(page.get_by_role("dialog", name="GPU 0 of gpu01")).to_be_visible()
        assert barriers(page) == []
    assert faults == []
    assert [address for address in addresses if not address.startswith(pages.hub.url)] == []


def test_the_hubs_pages_lead_to_the_map_for_those_who_may_see_it(pages: Pages, visit: Callable[..., Person]) -> None:
    student = visit(pages.hub, "student1")
    student.log_in()
    student.page.goto(f"{pages.hub.url}/hub/home")
    student.page.get_by_role("link", name="GPUs").click()
    expect(student.page.get_by_role("region", name="Your GPU")).to_be_visible()
