"""A fleet of test machines as the steps of a chain use it: plays, the hub's tables, people in a browser."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ansible.inventories import DOMAIN, PASSWORD
from ansible.machines import Machines
from ansible.plays import Played
from browser.person import Person
from hubs import wait_for
from playwright.sync_api import Browser, Page, expect

_CELL_MILLISECONDS = 60_000


@dataclass(frozen=True)
class Door:
    """What a `Person` must know of a hub: where it is and what opens it."""

    browser_url: str = f"https://{DOMAIN}"
    password: str = PASSWORD


@dataclass
class Chain:
    """Steps that build on each other; the first that fails ends them all."""

    machines: Machines
    seconds: dict[str, float]
    browser: Browser
    broken: str = ""
    people: dict[str, Person] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Do a step, unless an earlier one failed; its time is noted."""
        assert not self.broken, f"not tried, since this failed before: {self.broken}"
        started = time.monotonic()
        self.broken = name
        yield
        self.broken = ""
        self.seconds[name] = time.monotonic() - started

    def play(self, playbook: str, *arguments: str) -> Played:
        """Run a play, which must end well on all machines."""
        played = self.machines.play(playbook, *arguments)
        words = " ".join([playbook, *arguments])
        self.seconds[f"  {words}, {len(played.hosts)} machines"] = played.seconds
        failed = [name for name, recap in played.hosts.items() if recap.failed or recap.unreachable]
        assert played.status == 0, f"{words} ended with {played.status}; it failed on {failed}"
        assert not failed, f"{words} failed on {failed}"
        return played

    def broken_play(self, playbook: str, *arguments: str) -> Played:
        """Run a play that must fail."""
        played = self.machines.play(playbook, *arguments)
        assert played.status != 0, f"{playbook} went well"
        self.seconds[f"  {' '.join([playbook, *arguments])}, which fails"] = played.seconds
        return played

    # -- people ----------------------------------------------------------------------------------

    def person(self, name: str) -> Person:
        """Return somebody in front of a browser window of their own."""
        context = self.browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(30_000)
        page = context.new_page()
        # JupyterLab asks so while hub and proxy are restarted; a student at work goes on.
        away = page.get_by_role("dialog", name=re.compile("Server unavailable or unreachable"))
        page.add_locator_handler(away, lambda dialog: dialog.get_by_role("button", name="Dismiss").click())
        person = self.people[name] = Person(Door(), page, name)  # type: ignore[arg-type]
        return person

    def start_with_gpu(self, name: str) -> Person:
        """Let somebody log in and start with a GPU, until JupyterLab is there."""
        person = self.person(name)
        person.log_in()
        person.choose("With a GPU")
        person.wait_for_lab()
        return person

    # -- the hub ---------------------------------------------------------------------------------

    def rows(self, query: str, database: str = "idl_hub") -> list[list[str]]:
        """Ask the hub's Postgres."""
        words = ["runuser", "-u", "postgres", "--", "psql", "-XAt", "-F", "\t", "-d", database, "-c", query]
        return [line.split("\t") for line in self.machines.machine("hub").exec(*words).splitlines()]

    def server_of(self, user: str) -> str:
        """Return the server on which somebody's session runs."""
        running = self.rows(f"select server from lease where \"user\" = '{user}' and phase = 'running'")
        assert len(running) == 1, f"{user} has {len(running)} sessions"
        return running[0][0]

    def history(self) -> list[list[str]]:
        """Return who had which GPU from when to when: sessions that ended, with their GPUs."""
        return self.rows(
            'select l.id, l."user", l.server, g.gpu_uuid, l.phase, l.reserved_at, l.ended_at, g.released_at '
            "from lease l join lease_gpu g on g.lease_id = l.id order by l.id, g.gpu_uuid"
        )

    def users(self) -> list[list[str]]:
        """Return who is known to JupyterHub."""
        return self.rows("select name, admin from users order by name", "jupyterhub")

    def home_hashes(self) -> dict[str, str]:
        """Return a hash of each file in the homes."""
        return dict(hashes(self.machines.homes))


def hashes(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the path of each file below a folder, with a hash of what is in it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()


def open_notebook(page: Page) -> None:
    """Open a new notebook from JupyterLab's launcher."""
    page.locator(".jp-LauncherCard[data-category=Notebook]").first.click()
    indicator = page.locator(".jp-NotebookPanel .jp-Notebook-ExecutionIndicator")
    expect(indicator).to_have_attribute("data-status", "idle", timeout=_CELL_MILLISECONDS)


def run_cell(person: Person, code: str) -> str:
    """Type code into the last cell of the open notebook, run it, and return what it printed."""
    page = person.page
    wait_for(person._kernel_is_connected_and_idle, "a kernel for the notebook", 60)
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    cell = cells.nth(cells.count() - 1)
    cell.locator(".cm-content").click()
    page.keyboard.type(code)
    page.keyboard.press("Shift+Enter")  # runs it and makes another
    output = cell.locator(".jp-OutputArea-output")
    expect(output).to_be_visible(timeout=_CELL_MILLISECONDS)
    return output.inner_text().strip()
