"""A student whose home is full, from the start page to the first deleted file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from browser.person import Person
from hubs import Hub, wait_for
from playwright.sync_api import expect

from idl_hub.homes.store import MARKER

MIB = 2**20
SUDO = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]


@pytest.mark.timeout(180)
def test_a_student_whose_home_is_full_starts_reads_why_and_deletes_what_fills_it(
    start_hub: Callable[..., Hub], visit: Callable[..., Person], tmp_path: Path
) -> None:
    homes = tmp_path / "homes"
    runs = homes / "student1" / "runs"
    runs.mkdir(parents=True)
    (homes / MARKER).touch()
    (runs / "best_model.keras").write_bytes(b"x" * 60 * MIB)
    (homes / "student1" / "data.csv").write_bytes(b"x" * 3 * MIB)
    subprocess.run([*SUDO, "chown", "-R", "1000:1000", homes / "student1"], check=True)
    hub = start_hub(gpus=1, settings={"homes": {"directory": str(homes), "quota": "64MiB"}})
    student = visit(hub, "student1")
    page = student.page
    student.log_in()
    expect(page.get_by_text("Your home is full (63 MB of 64 MB)")).to_be_visible()
    student.picture("home-full-start")
    student.choose("Without a GPU")
    student.wait_for_lab()

    notice = page.get_by_role("region", name="Your home is full: 63 MB of 64 MB")
    model = notice.get_by_role("listitem").filter(has_text="runs/best_model.keras")
    expect(model).to_contain_text("60 MB", timeout=45_000)
    expect(notice.get_by_role("listitem").filter(has_text="data.csv")).to_contain_text("3 MB")
    student.picture("home-full")

    model.get_by_role("button", name="Delete runs/best_model.keras").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(notice).to_be_hidden(timeout=45_000)
    assert list(runs.iterdir()) == []
    page.get_by_role("button", name="No GPU").click()
    expect(page.get_by_role("dialog", name="My GPU")).to_contain_text("61 MB of 64 MB free")
    page.keyboard.press("Escape")
    page.goto(f"{hub.url}/hub/home")
    room = page.get_by_text("61 MB of 64 MB free in your home.")
    wait_for(lambda: page.reload() and room.is_visible(), "the home page to count anew")
