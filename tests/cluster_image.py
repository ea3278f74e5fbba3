"""The image of a server of the tests' cluster, made once and again when something in it changes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from images.builder import base, inputs
from images.builder.engine import Engine, find_docker
from images.builder.steps import Reporter

ROOT = Path(__file__).resolve().parents[1]
CERTIFICATES = Path("/usr/local/share/ca-certificates")
_LABEL = "idlhub.server-inputs"


@cache
def server_image(debian: str = "trixie") -> str:
    """Return the image's id; making it takes about a minute, and nothing when it is up to date."""
    engine = Engine(find_docker(), Reporter(quiet=True))
    name = f"idl-hub/server-test:{debian}"
    files = _context()
    wanted = inputs.fingerprint(files, {}, base.ensure(engine, fresh=False, suite=debian))
    if engine.label(name, _LABEL) != wanted:
        arguments = {"BASE": f"idl-hub/base:{debian}"}
        engine.build("Build a server's image", name, inputs.as_tar(files), arguments, f"{_LABEL}={wanted}", fresh=False)
        engine.remove_replaced(_LABEL)
    made = engine.image_id(name)
    assert made, f"{name} is gone right after it was made"
    return made


def _context() -> tuple[inputs.ContextFile, ...]:
    files = inputs.read_tree(ROOT / "tests" / "server_image")
    files += inputs.read_tree(CERTIFICATES, "ca-certificates", (".crt",))
    lock = (ROOT / "requirements" / "hub.txt").read_bytes()
    files.append(inputs.ContextFile("hub.txt", executable=False, content=lock))
    # The folder must be there for COPY even when it is empty.
    files.append(inputs.ContextFile("ca-certificates/README", executable=False, content=b"Extra CA certificates.\n"))
    return tuple(sorted(files))
