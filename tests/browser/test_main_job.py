"""What a student does: log in, get a GPU, train a network, stop."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from browser.person import START_MILLISECONDS, Person, printed
from hubs import Hub, docker, wait_for
from playwright.sync_api import expect

_EXERCISE = "First steps in TensorFlow.ipynb"
_SHOW_GPUS = (
    "nvitop -1; python -c 'import pynvml as n; n.nvmlInit();"
    'print("UUIDS", *(n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(i)) for i in range(n.nvmlDeviceGetCount())))\''
)
# JupyterLab waits until the test has read the progress page, which a fast machine shows for a moment only.
_WAITS_FOR_TEST = (
    'c.GPUDockerSpawner.cmd = ["sh", "-c", '
    """'until [ -e /tmp/go ]; do sleep 0.1; done; exec start-singleuser "$@"', "sh"]"""
)
# A container that runs and never answers: the start goes on until somebody stops it.
_NEVER_READY = 'c.GPUDockerSpawner.cmd = ["sh", "-c", "sleep 600", "sh"]'


@pytest.mark.timeout(420)
def test_a_student_logs_in_gets_a_gpu_trains_a_network_and_gives_the_gpu_back(
    start_hub: Callable[..., Hub], visit: Callable[..., Person]
) -> None:
    hub = start_hub(gpus=3, config=_WAITS_FOR_TEST)
    # Somebody outside the hub uses GPU 0, so that "the first one" would be wrong.
    hub.simulator.set(0, utilization_ratio=0.8)
    student = visit(hub, "student1")
    page = student.page
    page.goto(hub.url)
    student.picture("login")

    student.log_in()
    expect(page).to_have_title("Start - idl_hub")
    wait_for(lambda: page.reload() and page.get_by_text("2 of 3 free").is_visible(), "the load on GPU 0 to be seen")
    student.picture("start")
    student.choose("With a GPU")
    named = student.step(re.compile(r"GPU \d+ of"))
    student.step("JupyterLab is starting")
    student.picture("progress")
    (container,) = hub.containers(running=True)
    docker("exec", container, "touch", "/tmp/go")
    student.wait_for_lab()

    (lease,) = hub.leases(live=True)
    ((uuid,), (index,)) = (lease.gpu_uuids, lease.gpu_indices)
    assert index != 0
    assert f"GPU {index} of" in named
    assert "simulated" in named

    cells = student.run_notebook(_EXERCISE)
    errors = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert errors == []
    assert all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip())
    accuracy = re.search(r"Test accuracy: (\d\.\d+)", printed(cells))
    assert accuracy
    assert float(accuracy[1]) > 0.9
    student.scroll_up_to("Test accuracy: 0.9")
    student.picture("lab")

    shown = student.run_in_terminal(_SHOW_GPUS)
    assert re.findall(r"GPU-[0-9a-f-]+", shown.split("UUIDS")[1]) == [uuid]
    # nvitop has one line with the bus address for each GPU; the simulator's GPUs sit at 04, 05, 06, ...
    assert re.findall(r"[0-9A-F]{8}:([0-9A-F]{2}):00\.0", shown) == [f"{4 + index:02X}"], shown

    student.stop_server()
    wait_for(lambda: not hub.leftovers(), f"the GPU to be free again: {hub.leftovers()}")
    assert hub.api("GET", "/users/student1").json()["servers"] == {}


@pytest.mark.parametrize("moment", ["is yours", "JupyterLab is starting"])
def test_stop_pressed_in_the_middle_of_a_start_leaves_nothing_behind(
    start_hub: Callable[..., Hub], visit: Callable[..., Person], moment: str
) -> None:
    hub = start_hub(gpus=1, config=_NEVER_READY)
    student = visit(hub, "student1")
    student.log_in()
    student.choose("With a GPU")
    student.step(moment)
    assert len(hub.leases(live=True)) == 1

    student.page.get_by_role("button", name="Stop").click()

    expect(student.page.get_by_role("heading", name="Your server is not running")).to_be_visible(timeout=60_000)
    wait_for(lambda: not hub.leftovers(), f"nothing to be left: {hub.leftovers()}")
    student.page.get_by_role("link", name="Start my server").click()
    expect(student.page.get_by_text("1 of 1 free")).to_be_visible()


def queue_up(hub: Hub, student: Person) -> None:
    """Ask for a GPU when another student has just taken the only one; the line page comes by itself."""
    student.log_in()
    expect(student.page.get_by_text("1 of 1 free")).to_be_visible()
    assert hub.api("POST", "/users/student1/server", {"gpu": "one"}, timeout=90).ok
    student.choose("With a GPU")
    student.page.wait_for_url("**/services/web/line", timeout=START_MILLISECONDS)
    expect(student.page.get_by_text("Number 1 of 1")).to_be_visible(timeout=START_MILLISECONDS)


def test_when_all_gpus_are_taken_the_line_comes_by_itself_and_a_start_without_one_works(
    start_hub: Callable[..., Hub], visit: Callable[..., Person]
) -> None:
    hub = start_hub(gpus=1)
    student = visit(hub, "student2")
    queue_up(hub, student)
    student.page.get_by_role("button", name="Start now without a GPU").click()
    student.wait_for_lab()
    assert {lease.user: len(lease.gpu_uuids) for lease in hub.leases(live=True)} == {"student1": 1, "student2": 0}


def test_who_closed_the_browser_finds_the_server_started_when_the_turn_came(
    start_hub: Callable[..., Hub], visit: Callable[..., Person]
) -> None:
    hub = start_hub(gpus=1)
    student = visit(hub, "student2")
    queue_up(hub, student)
    student.page.goto("about:blank")
    assert hub.api("DELETE", "/users/student1/server").ok
    wait_for(lambda: [lease.user for lease in hub.leases(live=True) if lease.phase == "running"] == ["student2"], "it")

    student.page.goto(f"{hub.url}/services/web/line")
    student.page.get_by_text("Open JupyterLab").click()
    student.wait_for_lab()
    opened = "select state from ticket where user = 'student2'"
    wait_for(lambda: hub.rows(opened) == [("opened",)], "the ticket to be used up")


def test_a_server_that_dies_while_it_starts_leads_back_to_the_start_page_with_the_reason(
    start_hub: Callable[..., Hub], visit: Callable[..., Person]
) -> None:
    hub = start_hub(gpus=1, config='c.GPUDockerSpawner.cmd = ["sh", "-c", "sleep 3; exit 1", "sh"]')
    student = visit(hub, "student1")
    student.log_in()
    student.choose("With a GPU")
    student.step("JupyterLab is starting")

    heading = student.page.get_by_role("heading", name="Your server could not be started")
    expect(heading).to_be_visible(timeout=START_MILLISECONDS)
    expect(student.page.get_by_role("alert")).to_contain_text("Start without my packages")
    student.page.get_by_role("link", name="Back to the start page").click()
    expect(student.page).to_have_title("Start - idl_hub")
    wait_for(lambda: not hub.leftovers(), f"nothing to be left: {hub.leftovers()}")
