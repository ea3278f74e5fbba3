"""`idl-hub images` as an admin types it, and images to publish."""

from __future__ import annotations

import io
import os
import secrets
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from hubs import docker
from light import light_image

from idl_hub.cli import main

if TYPE_CHECKING:
    from hubs import Hub


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit status and all that it printed."""

    status: int
    text: str


def run_images(hub: Hub, *arguments: str) -> Done:
    """Run ``idl-hub images ...`` with a hub's settings; in this process, since starting Python takes seconds."""
    printed = io.StringIO()
    settings = {"IDLHUB_SETTINGS": str(hub.folder / "settings.yml")}
    with patch.dict(os.environ, settings), redirect_stdout(printed), redirect_stderr(printed):
        status = main(["images", *arguments])
    return Done(status, printed.getvalue())


def images(hub: Hub, *arguments: str) -> str:
    """Run ``idl-hub images ...``, which must work, and return what it printed."""
    done = run_images(hub, *arguments)
    assert done.status == 0, done.text
    return done.text


def build(name: str, folder: Path, size_bytes: int = 1000) -> None:
    """Make an image of its own: the light one with a layer that cannot be packed any smaller."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ballast").write_bytes(secrets.token_bytes(size_bytes))
    (folder / "Dockerfile").write_text(f"FROM {light_image()}\nCOPY ballast /ballast\n")
    docker("build", "--quiet", "--tag", name, str(folder))
