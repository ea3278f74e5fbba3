"""What JupyterLab tells a student about their GPU, and what they can do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser.person import Person
from hubs import Hub, ensure_network, wait_for
from playwright.sync_api import Locator, expect
from stand_in_web import StandInWeb, changed, notice, session, stand_in_web

from idl_hub.gpus.simulator import Fault, SimulatedProcess

pytestmark = pytest.mark.timeout(420)
GIB = 2**30
SOON_MILLISECONDS = 25_000  # JupyterLab asks every 15 s


@pytest.fixture
def web() -> Iterator[StandInWeb]:
    """Serve what the hub has to say, where students' containers reach it."""
    with stand_in_web(ensure_network()) as serving:
        yield serving


@pytest.fixture
def in_lab(
    start_hub: Callable[..., Hub], visit: Callable[..., Person], web: StandInWeb
) -> Callable[..., tuple[Hub, Person, str]]:
    """Bring a student with a GPU into JupyterLab; return the hub, the student and the GPU's UUID."""

    def open_lab(**how: Any) -> tuple[Hub, Person, str]:
        hub = start_hub(gpus=1, config=f'c.Spawner.environment = {{"IDLHUB_WEB_URL": "{web.url}"}}')
        uuid = hub.simulator.gpus()[0].uuid
        web.me = session(uuid)
        student = visit(hub, "student1", **how)
        student.log_in()
        student.choose("With a GPU")
        student.wait_for_lab()
        return hub, student, uuid

    return open_lab


def status_item(student: Person) -> Locator:
    return student.page.locator(".idl-Status button")


def banner(student: Person, title: str | re.Pattern[str]) -> Locator:
    return student.page.get_by_role("region", name=title)


def write_in_a_new_notebook(student: Person, text: str) -> None:
    """Open a notebook, change it and leave it unsaved."""
    page = student.page
    page.locator(".jp-LauncherCard[data-category='Notebook']").first.click()
    editor = page.locator(".jp-Notebook .jp-Cell .cm-content").first
    expect(editor).to_be_visible(timeout=60_000)
    editor.click()
    page.keyboard.type(text)
    expect(page.locator(".lm-TabBar-tab.jp-mod-dirty, .jp-mod-dirty").first).to_be_visible()


def saved_text(student: Person) -> str:
    notebook = student.content("Untitled.ipynb")
    return "".join(cell["source"] for cell in notebook["content"]["cells"]) if notebook else ""


def test_the_status_bar_shows_my_gpu_and_its_panel_the_details(
    in_lab: Callable[..., tuple[Hub, Person, str]], web: StandInWeb
) -> None:
    hub, student, _ = in_lab()
    hub.simulator.set(0, utilization_ratio=0.45, memory_used_bytes=int(2.1 * GIB), temperature_celsius=63)
    web.me = changed(web.me, idle_seconds=720)
    item = status_item(student)
    expect(item).to_contain_text("GPU 3 · 45 % · 2.1/11 GB · idle 12 min", timeout=SOON_MILLISECONDS)
    expect(item).to_contain_text("simulated")

    item.focus()
    student.page.keyboard.press("Enter")
    panel = student.page.get_by_role("dialog", name="My GPU")
    expect(panel).to_contain_text("GPU 3 of gpu05")
    expect(panel).to_contain_text("2.1 of 11 GB")
    expect(panel).to_contain_text("63 °C")
    expect(panel).to_contain_text(re.compile(r"(2 h 59 min|3 h) \(until"))
    expect(panel).to_contain_text("Nothing of yours holds any.")
    student.picture("my-gpu")
    student.page.keyboard.press("Escape")
    expect(panel).not_to_be_visible()
    expect(item).to_be_focused()

    # The hub's word is gone, this server's own readings are not.
    web.me = None
    hub.simulator.set(0, utilization_ratio=0.8)
    expect(item).to_contain_text("hub not reachable", timeout=SOON_MILLISECONDS)
    expect(item).to_contain_text("GPU 3 · 80 %")
    item.click()
    expect(panel).to_contain_text("it does not accept this server's token")
    assert {token for token in web.tokens if not (token or "").startswith("token ")} == set()


def test_an_idle_gpu_s_warning_saves_the_documents_and_can_be_answered_with_keep_it(
    in_lab: Callable[..., tuple[Hub, Person, str]], web: StandInWeb
) -> None:
    _, student, uuid = in_lab()
    write_in_a_new_notebook(student, "answer = 42")
    assert "answer" not in saved_text(student)

    web.me = session(uuid, notice=notice("idle", 272))
    warning = banner(student, "Your idle GPU is about to go to somebody else")
    expect(warning).to_be_visible(timeout=SOON_MILLISECONDS)
    expect(warning).to_contain_text("3 people wait for one")
    expect(warning.get_by_role("timer")).to_have_text(re.compile(r"4:[0-3]\d"))
    expect(status_item(student)).to_contain_text(re.compile(r"stops in 4:\d\d"))
    expect(warning).to_contain_text("All documents were saved at")
    wait_for(lambda: "answer = 42" in saved_text(student), "the notebook to be saved")
    student.picture("idle-notice")

    web.results["keep"] = {"state": "done", "result": "The GPU stays yours."}
    web.me = session(uuid)
    warning.get_by_role("button", name="Keep it").click()
    expect(warning).not_to_be_visible()
    expect(student.page.get_by_text("The GPU stays yours.")).to_be_visible()
    assert web.posts() == ["/api/me/keep"]


def test_a_hidden_warning_comes_back_in_the_last_minute_and_saves_again_and_a_stop_is_explained(
    in_lab: Callable[..., tuple[Hub, Person, str]], web: StandInWeb
) -> None:
    hub, student, uuid = in_lab()
    write_in_a_new_notebook(student, "first = 1")
    web.me = session(uuid, notice=notice("idle", 95, can_keep=False))
    warning = banner(student, "Your idle GPU is about to go to somebody else")
    expect(warning).to_be_visible(timeout=SOON_MILLISECONDS)
    expect(warning.get_by_role("button", name="Keep it")).to_have_count(0)
    wait_for(lambda: "first = 1" in saved_text(student), "the notebook to be saved")
    warning.get_by_role("button", name="Hide").click()
    expect(warning).not_to_be_visible()
    student.page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
    student.page.keyboard.type("; second = 2")

    expect(warning).to_be_visible(timeout=60_000)
    wait_for(lambda: "second = 2" in saved_text(student), "the notebook to be saved again")
    assert hub.api("DELETE", "/users/student1/server", timeout=60).status_code in (202, 204)
    stopped = banner(student, "Your server was stopped")
    expect(stopped).to_contain_text("Its GPU was idle while others waited", timeout=60_000)


def test_the_end_of_the_longest_session_is_announced_and_can_be_put_off(
    in_lab: Callable[..., tuple[Hub, Person, str]], web: StandInWeb
) -> None:
    _, student, uuid = in_lab()
    student.page.get_by_role("menuitem", name="Settings", exact=True).click()
    for label in ("Theme", "JupyterLab Dark"):
        student.page.locator(".lm-Menu-itemLabel").get_by_text(label, exact=True).click()
    expect(student.page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    text = "Your session reaches its longest time."
    web.me = session(uuid, notice=notice("length", 600, can_keep=False, text=text), can_extend=True)
    warning = banner(student, "Your session is about to end")
    expect(warning).to_contain_text(text, timeout=SOON_MILLISECONDS)

    status_item(student).click()
    expect(student.page.get_by_text("Nothing of yours holds any.")).to_be_visible()
    student.page.keyboard.press("Escape")
    web.results["extend"] = {"state": "refused", "result": "Others wait for a GPU now."}
    warning.get_by_role("button", name="Extend").click()
    expect(student.page.get_by_text("Others wait for a GPU now.")).to_be_visible()
    expect(warning).to_be_visible()


def test_the_notebook_that_holds_the_memory_is_named_and_its_kernel_can_be_shut_down(
    in_lab: Callable[..., tuple[Hub, Person, str]], web: StandInWeb
) -> None:
    hub, student, _ = in_lab()
    page = student.page
    write_in_a_new_notebook(student, "import os; open('pid.txt', 'w').write(str(os.getpid()))")
    wait_for(lambda: any(kernel["connections"] for kernel in student.get("/api/kernels") or []), "a kernel", 60)
    page.keyboard.press("Shift+Enter")
    pid = int(wait_for(lambda: student.content("pid.txt"), "the cell to run", 60)["content"])
    hub.simulator.set(0, processes=[SimulatedProcess(pid, 9 * GIB)])

    status_item(student).click()
    panel = page.get_by_role("dialog", name="My GPU")
    expect(panel.get_by_role("listitem")).to_contain_text("Untitled.ipynb", timeout=SOON_MILLISECONDS)
    expect(panel.get_by_role("listitem")).to_contain_text("9 GB")
    panel.get_by_role("button", name="Shut down the kernel of Untitled.ipynb").click()
    page.get_by_role("button", name="Shut down", exact=True).click()
    wait_for(lambda: student.get("/api/kernels") == [], "the kernel to end")
    expect(page.get_by_text("The kernel of Untitled.ipynb was shut down.")).to_be_visible()


def test_a_server_that_lost_its_gpu_says_so_and_leads_to_its_restart(
    in_lab: Callable[..., tuple[Hub, Person, str]], web: StandInWeb
) -> None:
    hub, student, _ = in_lab()
    expect(status_item(student)).to_contain_text("GPU 3")
    # What NVML answers in a container whose rights to the device were taken away.
    hub.simulator.set_driver(Fault.error(999))
    lost = banner(student, "This server lost its GPU")
    expect(lost).to_be_visible(timeout=90_000)
    expect(status_item(student)).to_contain_text("GPU lost")
    lost.get_by_role("button", name="Save and restart my server").click()
    expect(student.page.get_by_role("button", name="Stop my server")).to_be_visible()


def test_a_student_whose_kernel_was_killed_reads_why_and_what_to_do(
    start_hub: Callable[..., Hub], visit: Callable[..., Person]
) -> None:
    student = visit(start_hub(gpus=1, settings={"spawner": {"memory_limit": "768MiB"}}), "student1")
    student.log_in()
    student.choose("Without a GPU")
    student.wait_for_lab()
    write_in_a_new_notebook(student, "hoard = [bytearray(10**7) for _ in range(1000)]")
    wait_for(lambda: any(kernel["connections"] for kernel in student.get("/api/kernels") or []), "a kernel", 60)
    student.page.keyboard.press("Shift+Enter")

    killed = banner(student, re.compile("^Your kernel was killed at .*: out of memory$"))
    expect(killed).to_be_visible(timeout=60_000)
    expect(killed).to_contain_text("used 0.8 of 0.8 GB of memory, so the system ended the kernel of Untitled.ipynb")
    expect(killed).to_contain_text("Load less at once")
    expect(killed).to_contain_text("All documents were saved at")
    # Jupyter says that the kernel ended, but not why; both can be read and closed.
    student.page.get_by_role("dialog", name="Kernel Restarting").get_by_role("button", name="Ok").click()
    student.picture("killed")
    killed.get_by_role("button", name="Hide").click()
    expect(killed).not_to_be_visible()
    wait_for(lambda: student.get("/idl-hub/me")["killed"] is None, "the server to know that the student knows")


def test_the_hub_s_own_pages_answer_a_student_s_server(
    start_hub: Callable[..., Hub], visit: Callable[..., Person]
) -> None:
    student = visit(start_hub(gpus=1), "student1")
    student.log_in()
    student.choose("With a GPU")
    student.wait_for_lab()
    expect(status_item(student)).to_contain_text(re.compile(r"^GPU 0 · 0 % · .* left · simulated$"))
    me = student.get("/idl-hub/me")
    assert me["hub"] == {"reachable": True, "words": ""}
    assert me["server"]
