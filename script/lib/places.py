"""Where everything lies: what belongs to the checkout, and the state of one hub started from it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from script.lib.console import SetupError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Places:
    """Paths used by the set-up; ``state`` is what ``--state`` chooses, all else belongs to the checkout."""

    root: Path
    state: Path

    @property
    def venv(self) -> Path:
        """The hub's virtual environment."""
        return self.root / ".venv"

    @property
    def student_venv(self) -> Path:
        """The students' virtual environment where their servers are processes, not containers."""
        return self.tools / "student-venv"

    @property
    def requirements(self) -> Path:
        """The folder of locked versions."""
        return self.root / "requirements"

    @property
    def tools(self) -> Path:
        """What set-up makes once for the checkout: the proxy, the simulator, stamps, its logs."""
        return (self.root / ".state").resolve()  # it may be a link to that of another checkout

    @property
    def proxy(self) -> Path:
        """The folder of configurable-http-proxy."""
        return self.tools / "proxy"

    @property
    def page_tests(self) -> Path:
        """The folder of what tests of the pages need from npm."""
        return self.tools / "pages"

    @property
    def ansible(self) -> Path:
        """The virtual environment of Ansible, in the versions that the roles are tested with."""
        return self.tools / "ansible"

    @property
    def registry(self) -> Path:
        """The folder of docker-registry, for tests."""
        return self.tools / "registry"

    @property
    def prometheus(self) -> Path:
        """The folder of Prometheus and promtool, for tests."""
        return self.tools / "prometheus"

    @property
    def simulator(self) -> Path:
        """The folder of the stand-in libnvidia-ml.so.1."""
        return self.tools / "simulator"

    @property
    def setup_logs(self) -> Path:
        """What the programs run by the set-up printed."""
        return self.tools / "setup-logs"

    @property
    def logs(self) -> Path:
        """What hub and proxy print."""
        return self.state / "logs"

    @property
    def server_record(self) -> Path:
        """Process ids and addresses of the hub that runs on this state, while it runs."""
        return self.state / "server.json"


def prepare(root: Path, state: Path | None) -> Places:
    """Make the folders, private to this user, and return where everything lies.

    Raises
    ------
    SetupError
        When a folder cannot be made or belongs to somebody else.
    """
    places = Places(root, (state or root / ".state").resolve())
    for folder in (places.tools, places.state, places.setup_logs, places.logs):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(
                f"The folder {folder} cannot be made: {error.strerror}.",
                f"Make it writable for you, or choose another with --state: {_take_over(places)}",
            ) from error
    for folder in (places.tools, places.state, places.setup_logs, places.logs, places.venv, places.proxy):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            raise SetupError(
                f"You may not write to {folder}; it belongs to user id {folder.stat().st_uid}, "
                "perhaps because script/server ran as another user before.",
                f"Run as that user again, or take the files over: {_take_over(places)}",
            )
    return places


def _take_over(places: Places) -> str:
    owned = [folder for folder in (places.tools, places.state, places.venv) if folder.exists()]
    return f"sudo chown -R {os.getuid()} {' '.join(map(str, dict.fromkeys(owned)))}"


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read, whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
