"""An idle GPU on its way from one student to the next, as the first one sees it: nothing stands in for anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser.person import Person
from hubs import Hub, wait_for
from playwright.sync_api import expect

IDLE_MINUTES, WARNING_MINUTES = 0.3, 0.75  # longer than the 15 s in which JupyterLab asks
NOTICED_MILLISECONDS = 60_000
STOPPED_MILLISECONDS = 120_000


@pytest.mark.timeout(420)
def test_an_idle_gpu_is_announced_kept_once_and_then_goes_to_who_waits(
    start_hub: Callable[..., Hub], visit: Callable[..., Person]
) -> None:
    sessions = {"idle_minutes_while_others_wait": IDLE_MINUTES, "idle_warning_minutes": WARNING_MINUTES}
    hub = start_hub(gpus=1, settings={"sessions": sessions})
    student = visit(hub, "student1")
    student.log_in()
    student.choose("With a GPU")
    student.wait_for_lab()
    assert hub.api("POST", "/users/student2/server", {"gpu": "one"}, timeout=60).status_code == 409

    notice = student.page.get_by_role("region", name="Your idle GPU is about to go to somebody else")
    expect(notice).to_be_visible(timeout=NOTICED_MILLISECONDS)
    expect(notice).to_contain_text("others wait for one")
    notice.get_by_role("button", name="Keep it").click()
    expect(notice).to_be_hidden(timeout=NOTICED_MILLISECONDS)

    expect(notice).to_be_visible(timeout=NOTICED_MILLISECONDS)
    expect(notice.get_by_role("button", name="Keep it")).to_have_count(0)
    stopped = student.page.get_by_role("region", name="Your server was stopped")
    expect(stopped).to_be_visible(timeout=STOPPED_MILLISECONDS)
    expect(stopped).to_contain_text("Its GPU was idle while others waited")
    wait_for(lambda: [lease.user for lease in hub.leases(live=True) if lease.phase == "running"] == ["student2"], "it")
