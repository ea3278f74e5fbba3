"""What the tests of the deployment share: a browser that trusts the fleet's certificate, and how long plays took."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ansible.chain import Chain
from ansible.inventories import DOMAIN
from ansible.machines import Machines
from playwright.sync_api import Browser, sync_playwright

SECONDS = pytest.StashKey[dict[str, float]]()


@pytest.fixture(scope="session")
def seconds(pytestconfig: pytest.Config) -> dict[str, float]:
    """Collect what took how long; the table stands at the end of the tests' output."""
    return pytestconfig.stash.setdefault(SECONDS, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how long each play took."""
    if taken := config.stash.get(SECONDS, {}):
        terminalreporter.section("seconds of each step of the deployment")
        for what, seconds in taken.items():
            terminalreporter.line(f"{seconds:7.1f}  {what}")


@pytest.fixture(scope="module")
def open_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str, Path], Browser]]:
    """Start Chromium for a name at an address, trusting an authority as an admin would have it trusted."""
    with ExitStack() as held:
        playwright = held.enter_context(sync_playwright())

        def start(name: str, address: str, authority: Path) -> Browser:
            home = tmp_path_factory.mktemp("browser")
            _trust(home, authority)
            program = shutil.which("chromium")
            assert program, "Chromium is missing; script/test installs it"
            words = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
            words += [f"--host-resolver-rules=MAP {name} {address}"]
            words += ["--no-sandbox"] if os.geteuid() == 0 else []
            environment = os.environ | {"HOME": str(home)}
            browser = playwright.chromium.launch(executable_path=program, args=words, env=environment)
            held.callback(browser.close)
            return browser

        yield start


@pytest.fixture(scope="module")
def start_chain(
    tmp_path_factory: pytest.TempPathFactory,
    seconds: dict[str, float],
    open_browser: Callable[[str, str, Path], Browser],
) -> Iterator[Callable[..., Chain]]:
    """Start bare machines, and a browser that finds them; what is said goes to `Machines`."""
    with ExitStack() as held:

        def start(**how: Any) -> Chain:
            machines = held.enter_context(Machines(tmp_path_factory.mktemp("fleet") / "machines", **how))
            authority = machines.inventory / "tls" / "ca.pem"
            return Chain(machines, seconds, open_browser(DOMAIN, machines.machine("hub").address, authority))

        yield start


def _trust(home: Path, authority: Path) -> None:
    """Put an authority where Chromium looks for those that a user trusts."""
    assert shutil.which("certutil"), "certutil (package libnss3-tools) is missing; script/test installs it"
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True)
    for words in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "authority", "-i", str(authority)]):
        subprocess.run(["certutil", "-d", f"sql:{store}", *words], check=True, capture_output=True, timeout=60)
