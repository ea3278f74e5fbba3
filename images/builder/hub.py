"""The command ``script/hub-image``: make the image of hub, GPU pages and proxy, if anything it is made of changed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import base, inputs
from .engine import Engine, find_docker
from .failure import ImageError
from .steps import Reporter

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "idl-hub/hub:latest"
LABEL = "idlhub.hub-inputs"
CERTIFICATES = Path("/usr/local/share/ca-certificates")
REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED_BYTES = 3_000_000_000
_LOCKS = ("hub.txt", "node.txt")
_PACKAGING = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
_PACKAGED = (".py", ".c", ".h", ".html", ".css", ".svg", ".js", ".yaml", ".ipynb", ".mako", ".typed")
_LAB = "project/idl_hub/lab/"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is missing; return the exit status (130 when interrupted)."""
    parser = argparse.ArgumentParser(
        prog="script/hub-image", description=f"Build the image {NAME}, unless it is up to date."
    )
    parser.add_argument("--force", action="store_true", help="build everything anew, the base image too")
    parser.add_argument(
        "--keep-previous", action="store_true", help="keep the image that is replaced, under the tag previous"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but failures")
    options = parser.parse_args(arguments)
    try:
        build(Reporter(quiet=options.quiet), fresh=options.force, keep_previous=options.keep_previous)
    except ImageError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run it again and it goes on after the last finished step.", file=sys.stderr)
        return 130
    return 0


def build(reporter: Reporter, *, fresh: bool = False, keep_previous: bool = False) -> None:
    """Bring the hub's image up to date.

    Raises
    ------
    ImageError
        With the cause and the remedy.
    """
    engine = Engine(find_docker(), reporter)
    engine.check(NEEDED_BYTES)
    files = context(REPOSITORY, CERTIFICATES)
    wanted = inputs.fingerprint(files, {}, base.ensure(engine, fresh=fresh))
    if not fresh and engine.label(NAME, LABEL) == wanted:
        reporter.say(f"The image {NAME} is up to date.")
        return
    with engine.replacing(NAME, LABEL, keep=keep_previous):
        engine.build("Build the hub's image", NAME, inputs.as_tar(files), {}, f"{LABEL}={wanted}", fresh=fresh)


def context(repository: Path, certificates: Path) -> tuple[inputs.ContextFile, ...]:
    """Collect the build context: the Dockerfile, the locks, the project, and JupyterHub's configuration.

    Parameters
    ----------
    repository
        The project's own folder.
    certificates
        Where the host keeps extra CA certificates (``*.crt``); may be missing or empty.
    """
    files = inputs.read_tree(repository / "images" / "hub")
    files += [_file(repository / "requirements" / name, name) for name in _LOCKS]
    files += inputs.read_tree(repository / "requirements" / "proxy", "proxy", (".json",))
    files += [_file(repository / name, f"project/{name}") for name in _PACKAGING]
    package = inputs.read_tree(repository / "idl_hub", "project/idl_hub", _PACKAGED)
    # JupyterLab's extension is for students' images; its sources are nobody's at run time.
    files += [file for file in package if not file.path.startswith(_LAB) or file.path.endswith(".py")]
    files.append(_file(repository / "jupyterhub_config.py", "configuration/jupyterhub_config.py"))
    files += inputs.read_tree(repository / "jupyterhub_config.d", "configuration/jupyterhub_config.d", (".md",))
    files += inputs.read_tree(certificates, "ca-certificates", (".crt",))
    # The folder must be there for COPY even when it is empty.
    files.append(inputs.ContextFile("ca-certificates/README", executable=False, content=b"Extra CA certificates.\n"))
    return tuple(sorted(files))


def _file(path: Path, name: str) -> inputs.ContextFile:
    return inputs.ContextFile(name, executable=False, content=path.read_bytes())
