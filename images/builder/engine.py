"""The Docker engine, through its command line."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .failure import ImageError, explain
from .steps import Reporter, run_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ANSWER_SECONDS = 30.0
BUILD_SECONDS = 3600.0
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


def find_docker() -> str:
    """Return the Docker command: the distribution's own, else the first on PATH."""
    own = Path("/usr/bin/docker")
    found = str(own) if os.access(own, os.X_OK) else shutil.which("docker")
    if not found:
        raise ImageError(
            "There is no Docker here, which the student image needs.\n"
            "script/server installs it (`apt install docker.io`); without it, `script/server --no-docker`."
        )
    return found


@dataclass(frozen=True)
class Engine:
    """A Docker engine that answers."""

    docker: str
    reporter: Reporter

    def ask(self, *arguments: str) -> str | None:
        """Return a short command's output, or None when the engine says that there is no such thing.

        Raises
        ------
        ImageError
            The engine cannot be reached or refuses.
        """
        try:
            answer = subprocess.run(
                [self.docker, *arguments], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ImageError(
                f"The Docker engine did not answer within {ANSWER_SECONDS:.0f} s.\n"
                "Look at its log (`journalctl -u docker`) and restart it, then run this again."
            ) from error
        if answer.returncode == 0:
            return answer.stdout.strip()
        if "no such" in answer.stderr.lower():
            return None
        raise explain("Asking the Docker engine", answer.stderr)

    def check(self, needed_bytes: int) -> None:
        """Make sure that the engine answers and its disk has room.

        Raises
        ------
        ImageError
            With the cause and the remedy.
        """
        # First a question whose failure is worded plainly: without an engine, `info --format` trips over itself.
        self.ask("version", "--format", "{{.Server.Version}}")
        root = self.ask("info", "--format", "{{.DockerRootDir}}") or ""
        # The folder is out of sight when the engine runs elsewhere or the user may not look.
        if not root or not Path(root).is_dir():
            return
        free_bytes = shutil.disk_usage(root).free
        if free_bytes < needed_bytes:
            raise ImageError(
                f"Too little room for the student image: {free_bytes / 1e9:.1f} GB are free in {root}, "
                f"about {needed_bytes / 1e9:.0f} GB are needed.\n"
                "Make room (`docker system df` shows what Docker holds), then run this again."
            )

    def image_id(self, name: str) -> str | None:
        """Return an image's id, or None when there is none of that name."""
        return self.ask("image", "inspect", "--format", "{{.Id}}", name)

    def label(self, name: str, label: str) -> str | None:
        """Return a label of an image, or None when image or label is missing."""
        return self.ask("image", "inspect", "--format", f'{{{{index .Config.Labels "{label}"}}}}', name) or None

    def tag(self, source: str, name: str) -> None:
        """Give an image a name."""
        self.ask("tag", source, name)

    def build(
        self, what: str, name: str, context: bytes, build_args: Mapping[str, str], label: str, *, fresh: bool
    ) -> None:
        """Build an image with the classic builder, which every engine has, on the host's network."""
        command = [self.docker, "build", "--network=host", "--tag", name, "--label", label]
        for argument, value in build_args.items():
            command += ["--build-arg", f"{argument}={value}"]
        for variable in PROXY_VARIABLES:
            if variable in os.environ:
                # The engine knows these by name and keeps them out of the image and its history.
                command += ["--build-arg", variable]
        if fresh:
            command.append("--no-cache")
        run_step(
            self.reporter,
            what,
            [*command, "-"],
            deadline_seconds=BUILD_SECONDS,
            given=context,
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
        )

    @contextlib.contextmanager
    def replacing(self, name: str, label: str, *, keep: bool) -> Iterator[None]:
        """Look after the image that loses its name to one built meanwhile.

        Parameters
        ----------
        label
            Images that carry it and have no name are removed, unless in use.
        keep
            Call the replaced one ``previous`` first, so that there is a way back.
        """
        before = self.image_id(name)
        yield
        if keep and before and before != self.image_id(name):
            self.tag(before, f"{name.rpartition(':')[0]}:previous")
        self.remove_replaced(label)

    def remove_replaced(self, label: str) -> None:
        """Remove images that carry ``label`` and lost their name to a newer one, unless in use."""
        self.ask("image", "prune", "--force", "--filter", f"label={label}", "--filter", "dangling=true")
