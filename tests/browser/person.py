"""Somebody in front of a browser: what a student does with the hub's pages and JupyterLab."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hubs import ROOT, Hub, wait_for
from playwright.sync_api import Error, Page, expect

START_MILLISECONDS = 60_000
_READ = """async (path) => {
  const xsrf = document.cookie.split('; ').find((cookie) => cookie.startsWith('_xsrf='))?.slice(6);
  const answer = await fetch(path, {headers: {'X-XSRFToken': xsrf || ''}, cache: 'no-store'});
  return answer.ok ? await answer.json() : null;
}"""


@dataclass(frozen=True)
class Person:
    """A demo user with a browser window of their own."""

    hub: Hub
    page: Page
    name: str

    def log_in(self, password: str | None = None) -> None:
        """Open the hub and sign in, and wait for the hub's answer; with the right password the start page follows."""
        self._open(self.hub.browser_url)
        self.page.get_by_label("Name").fill(self.name)
        self.page.get_by_label("Password").fill(self.hub.password if password is None else password)
        with self.page.expect_navigation():  # or a reload that comes next would cut the sign-in off
            self.page.get_by_role("button", name="Sign in").click()

    def _open(self, url: str) -> None:
        """Go to a page, again where Chromium gave up because some container's interface came or went just then."""
        for _ in range(5):
            try:
                self.page.goto(url)
            except Error as error:
                if "ERR_NETWORK_CHANGED" not in error.message:
                    raise
            else:
                return
        raise AssertionError(f"the machine's network never stood still while {url} was opened")

    def choose(self, gpu: str) -> None:
        """Choose ``With a GPU`` or ``Without a GPU`` on the start page, and start."""
        self.page.get_by_role("radio", name=re.compile(f"^{gpu}")).check()
        self.page.get_by_role("button", name="Start").click()

    def step(self, text: str | re.Pattern[str]) -> str:
        """Wait until the progress page tells this step; return all of its words."""
        found = self.page.get_by_role("listitem").filter(has_text=text).first
        expect(found).to_be_visible(timeout=START_MILLISECONDS)
        return found.inner_text()

    def wait_for_lab(self) -> None:
        """Wait until JupyterLab shows its launcher."""
        self.page.wait_for_url(f"**/user/{self.name}/lab**", timeout=START_MILLISECONDS)
        expect(self.page.locator(".jp-LauncherCard").first).to_be_visible(timeout=START_MILLISECONDS)

    def get(self, path: str) -> Any:
        """Ask this person's server, as its pages do; None when it answers with an error."""
        return self.page.evaluate(_READ, f"/user/{self.name}{path}")

    def content(self, path: str) -> Any:
        """Return what Jupyter's contents API says of a file; None when there is no such file."""
        return self.get(f"/api/contents/{quote(path)}")

    def run_in_terminal(self, command: str, seconds: float = 60) -> str:
        """Type a command into a terminal of JupyterLab and return what it printed."""
        page = self.page
        page.get_by_role("tab", name="Launcher").click()
        page.locator(".jp-LauncherCard", has_text="Terminal").click()
        terminal = page.locator(".jp-Terminal .xterm-helper-textarea")
        # The terminal's screen is a picture: what the command printed is read from a file.
        expect(page.locator(".jp-Terminal .xterm-screen")).to_be_visible()
        terminal.focus()
        page.keyboard.type(f"({command}) > printed.txt 2>&1; touch finished.txt")
        page.keyboard.press("Enter")
        wait_for(lambda: self.content("finished.txt"), f"the end of {command}", seconds)
        return str(self.content("printed.txt")["content"])

    def run_notebook(self, name: str, seconds: float = 180) -> list[dict[str, Any]]:
        """Open a notebook from the list of files, run all its cells, save it; return its code cells."""
        page = self.page
        page.locator(".jp-DirListing-item", has_text=name).dblclick()
        # Cells that are run before the kernel is there are lost, and the page says "idle" before it has one.
        wait_for(self._kernel_is_connected_and_idle, "a kernel for the notebook", 60)
        indicator = page.locator(".jp-NotebookPanel .jp-Notebook-ExecutionIndicator")
        expect(indicator).to_have_attribute("data-status", "idle")
        page.get_by_role("menubar").get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        expect(indicator).to_have_attribute("data-status", "busy")
        expect(indicator).to_have_attribute("data-status", "idle", timeout=seconds * 1000)
        page.keyboard.press("Control+s")

        def cells() -> list[dict[str, Any]]:
            notebook = self.content(name)["content"]
            return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

        wait_for(lambda: cells()[-1]["execution_count"], "the notebook to be saved with its last cell's output")
        return cells()

    def scroll_up_to(self, text: str) -> None:
        """Turn the mouse wheel over the notebook until this text is in the lower half; far cells are not drawn."""
        page = self.page
        page.locator(".jp-NotebookPanel").hover()
        found = page.get_by_text(text)

        def in_lower_half() -> bool:
            box = found.bounding_box() if found.count() else None
            if box and 500 < box["y"] < 740:
                return True
            page.mouse.wheel(0, -150)
            return False

        wait_for(in_lower_half, f"{text} to come into sight")

    def _kernel_is_connected_and_idle(self) -> bool:
        kernels = self.get("/api/kernels") or []
        return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)

    def stop_server(self) -> None:
        """Stop the server on the home page and wait until the page says so."""
        self._open(f"{self.hub.browser_url}/hub/home")
        self.page.get_by_role("button", name="Stop my server").click()
        expect(self.page.get_by_role("heading", name="Your server is not running")).to_be_visible(timeout=60_000)

    def picture(self, name: str) -> None:
        """Keep a picture for the documentation, where IDLHUB_SCREENSHOTS=1 asks for it."""
        if os.environ.get("IDLHUB_SCREENSHOTS") == "1":
            self.page.screenshot(path=ROOT / "docs" / "images" / f"{name}.png")


def printed(cells: list[dict[str, Any]]) -> str:
    """Return what code cells printed."""
    outputs = [output for cell in cells for output in cell["outputs"]]
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")
