"""A real browser, and a real hub for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from browser.person import Person
from hubs import Hub
from playwright.sync_api import Browser, sync_playwright

_QUIET = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser_arguments() -> list[str]:
    """Return what a module's browser is told beyond the usual; to be overridden there."""
    return []


@pytest.fixture(scope="module")
def browser(browser_arguments: list[str]) -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "Chromium is missing; script/test installs it"
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        arguments = [*_QUIET, "--disable-sync", *as_root, *browser_arguments]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """Start a hub with the settings that a test asks for."""
    with ExitStack() as held:

        def start(**how: Any) -> Hub:
            hub = held.enter_context(Hub(tmp_path / "hub", **how))
            held.callback(lambda: print(hub.log_tail()))  # pytest shows it when the test failed
            return hub

        yield start


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[[Hub, str], Person]]:
    """Open a browser window for a person; nothing is remembered from other windows."""
    with ExitStack() as held:

        def open_window(hub: Hub, name: str, **how: Any) -> Person:
            context = browser.new_context(viewport={"width": 1280, "height": 800}, **how)
            held.callback(context.close)
            context.set_default_timeout(20_000)
            return Person(hub, context.new_page(), name)

        yield open_window
