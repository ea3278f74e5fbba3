"""What the pages say, and to whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser.person import Person
from hubs import Hub, wait_for
from playwright.sync_api import expect

from idl_hub.gpus.simulator import Fault


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """One hub for all tests here; each uses another student."""
    folder: Path = tmp_path_factory.mktemp("pages")
    with Hub(folder, gpus=3, students=12) as hub:
        yield hub


def test_a_wrong_password_is_called_wrong_and_the_name_stays(hub: Hub, visit: Callable[..., Person]) -> None:
    student = visit(hub, "student1")
    student.log_in("not the password")
    expect(student.page.get_by_role("alert")).to_contain_text("Invalid username or password")
    expect(student.page.get_by_label("Name")).to_have_value("student1")

    student.log_in()
    expect(student.page).to_have_title("Start - idl_hub")


def test_the_login_page_names_the_people_of_the_trial_and_not_their_password(
    hub: Hub, visit: Callable[..., Person]
) -> None:
    page = visit(hub, "").page
    page.goto(hub.url)
    who = page.get_by_role("region", name="Who can sign in")
    expect(who).to_contain_text("lecturer, assistant, admin and student1 to student12")
    expect(page.get_by_text("Trial on one machine · GPUs are simulated GTX 1080 Ti's")).to_be_visible()
    assert hub.password not in page.content()


def test_a_lost_gpu_is_not_offered_and_its_reason_is_shown(hub: Hub, visit: Callable[..., Person]) -> None:
    hub.simulator.set(1, fault=Fault.lost())
    student = visit(hub, "student2")
    student.log_in()
    page = student.page
    wait_for(lambda: page.reload() and page.get_by_text("2 of 3 free").is_visible(), "the fault to be seen")
    page.get_by_text("1 GPU is out of order").click()
    reason = page.get_by_role("listitem").filter(has_text="GPU 1 of this machine")
    expect(reason).to_contain_text("fell off the bus")
    expect(reason).to_contain_text("simulated")


def test_the_last_choice_is_offered_again(hub: Hub, visit: Callable[..., Person]) -> None:
    student = visit(hub, "student3")
    student.log_in()
    expect(student.page.get_by_role("radio", name="With a GPU")).to_be_checked()
    student.page.get_by_role("checkbox", name="Start without my packages").check()
    student.choose("Without a GPU")
    student.wait_for_lab()
    student.stop_server()
    student.page.get_by_role("link", name="Start my server").click()
    expect(student.page.get_by_role("radio", name="Without a GPU")).to_be_checked()
    expect(student.page.get_by_role("checkbox", name="Start without my packages")).to_be_checked()


def test_the_keyboard_alone_leads_from_login_to_a_start(hub: Hub, visit: Callable[..., Person]) -> None:
    student = visit(hub, "student4")
    page = student.page
    page.goto(hub.url)
    page.keyboard.type("student4")  # the name has the focus from the beginning
    page.keyboard.press("Tab")
    page.keyboard.type(hub.password)
    page.keyboard.press("Enter")
    expect(page).to_have_title("Start - idl_hub")
    expect(page.get_by_role("button", name="Start")).to_be_visible()  # the title is there before the form
    for _ in range(12):  # over the links of the page's head
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "gpu":
            break
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("radio", name="Without a GPU")).to_be_checked()
    page.keyboard.press("Enter")
    student.wait_for_lab()
    assert [lease.gpu_uuids for lease in hub.leases(live=True) if lease.user == "student4"] == [()]


def test_a_trial_without_containers_says_loudly_that_it_isolates_nobody(
    start_hub: Callable[..., Hub], visit: Callable[..., Person]
) -> None:
    hub = start_hub(kind="process")
    page = visit(hub, "").page
    page.goto(hub.url)
    expect(page.get_by_text("This trial isolates nobody")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "heading"),
    [("/hub/nothing-here", "There is no such page"), ("/hub/admin", "This is not open to you")],
)
def test_an_error_page_says_in_plain_words_what_to_do(
    hub: Hub, visit: Callable[..., Person], path: str, heading: str
) -> None:
    student = visit(hub, "student5")
    student.log_in()
    expect(student.page).to_have_title("Start - idl_hub")
    student.page.goto(hub.url + path)
    expect(student.page.get_by_role("heading", name=heading)).to_be_visible()
    student.page.get_by_role("link", name="Home").last.click()
    expect(student.page.get_by_role("heading", name="Hello student5")).to_be_visible()


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_the_screen_load_nothing_from_elsewhere_and_run_without_errors(
    hub: Hub, visit: Callable[..., Person], width: int, scheme: str
) -> None:
    student = visit(hub, "student6", color_scheme=scheme)
    page = student.page
    page.set_viewport_size({"width": width, "height": 700})
    addresses: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    student.log_in()
    expect(page).to_have_title("Start - idl_hub")
    for path in ("/hub/spawn", "/hub/home", "/hub/token", "/hub/login"):
        page.goto(hub.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate("document.documentElement.dataset.bsTheme") == scheme
    assert faults == []
    assert [address for address in addresses if not address.startswith((hub.url, "data:"))] == []
