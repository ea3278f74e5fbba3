"""The settings of a trial on this machine, written anew at each start, and its secrets, made once."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from script.lib.places import Places, write_private

if TYPE_CHECKING:
    from pathlib import Path

_HEAD = (
    "# Written by script/server at each start; your own settings belong into settings.yml, see settings.example.yml.\n"
)
# No letters or digits that look alike: people type this password.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


@dataclass(frozen=True)
class Trial:
    """How one hub on this machine is set up."""

    port: int
    internal_address: str
    demo_students: int
    simulated_gpus: int
    simulator_library: Path | None
    simulator_state: Path | None
    student_python: Path | None
    spawner: str
    network: str
    image: str

    @property
    def proxy_api_port(self) -> int:
        """The port of the proxy's own API; fixed, so that a restarted hub finds the proxy."""
        return self.port + 1

    @property
    def internal_port(self) -> int:
        """The port of the hub's API; fixed, since running containers keep calling it."""
        return self.port + 81

    @property
    def web_port(self) -> int:
        """The port of the GPU pages; fixed, since running containers keep calling it."""
        return self.port + 90

    @property
    def users(self) -> str:
        """The names that may log in, as they are told to a person."""
        students = "student1" if self.demo_students == 1 else f"student1 ... student{self.demo_students}"
        return f"lecturer, assistant, {students}"


def settings(trial: Trial, places: Places) -> dict[str, Any]:
    """Return the settings as idl_hub.settings reads them."""
    gpus: dict[str, Any] = {"simulated": trial.simulated_gpus}
    if trial.simulated_gpus:
        gpus["simulator_library"] = str(trial.simulator_library)
        gpus["simulator_state"] = str(trial.simulator_state)
    spawner: dict[str, Any] = {"kind": trial.spawner, "network": trial.network, "image": trial.image}
    if trial.student_python is not None:
        spawner["student_python"] = str(trial.student_python)
        spawner["first_files"] = str(places.root / "images" / "student" / "exercises")
    return {
        "trial": True,
        "hub": {
            "state_directory": str(places.state),
            "public_address": "127.0.0.1",
            "public_port": trial.port,
            "internal_address": trial.internal_address,
            "internal_port": trial.internal_port,
            "web_port": trial.web_port,
            "proxy_api_port": trial.proxy_api_port,
        },
        "login": {
            "kind": "demo",
            "demo_students": trial.demo_students,
            "demo_password_file": str(password_file(places)),
        },
        "gpus": gpus,
        "spawner": spawner,
    }


def write_settings(trial: Trial, places: Places) -> list[Path]:
    """Write the trial's settings and return the files the hub reads, later ones winning.

    The file is JSON, which every YAML reader reads: Python's standard library writes no YAML.
    """
    own = places.state / "trial.yml"
    write_private(own, _HEAD + json.dumps(settings(trial, places), indent=2) + "\n")
    theirs = places.root / "settings.yml"
    return [theirs, own] if theirs.exists() else [own]


def password_file(places: Places) -> Path:
    """Return the file with the password of the demo users."""
    return places.state / "demo-password"


def demo_password(places: Places) -> str:
    """Return the password of the demo users, made at the first start."""
    return _secret(password_file(places), "-".join(_word() for _ in range(3)))


def proxy_token(places: Places) -> str:
    """Return the secret that hub and proxy share, made at the first start."""
    return _secret(places.state / "proxy-token", secrets.token_hex(32))


def _word() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(4))


def _secret(path: Path, fresh: str) -> str:
    if not path.exists():
        write_private(path, fresh + "\n")
    path.chmod(0o600)
    return path.read_text().strip()
