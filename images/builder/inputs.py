"""What goes into the student image: the build context and the fingerprint that tells whether it changed."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXECUTABLE = 0o100
# What of idl_hub runs in a student's server: it needs nothing that the image does not have anyway.
LAB_MODULES = (
    "__init__.py",
    "gpus/__init__.py",
    "gpus/nvml.py",
    "gpus/processes.py",
    "gpus/reading.py",
    "gpus/sampler.py",
    "gpus/worker.py",
    "lab/__init__.py",
    "lab/holders.py",
    "lab/hub.py",
    "lab/server.py",
    "lab/session.py",
    "lab/status.py",
    "lab/watch.py",
)


@dataclass(frozen=True, order=True)
class ContextFile:
    """One file of a build context; ``path`` is relative to the context."""

    path: str
    executable: bool
    content: bytes


def read_tree(folder: Path, into: str = "", suffixes: Sequence[str] = ()) -> list[ContextFile]:
    """Read all files below ``folder`` (those with one of ``suffixes``, if any are named).

    Editors' leftovers and byte code are passed over.
    """
    files = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or "__pycache__" in relative.parts or path.name.endswith(("~", ".swp", ".pyc")):
            continue
        if suffixes and path.suffix not in suffixes:
            continue
        executable = bool(path.stat().st_mode & EXECUTABLE)
        files.append(ContextFile(str(Path(into) / relative), executable, path.read_bytes()))
    return files


def student_context(repository: Path, certificates: Path) -> tuple[ContextFile, ...]:
    """Collect the build context of the student image.

    Parameters
    ----------
    repository
        The project's own folder.
    certificates
        Where the host keeps extra CA certificates (``*.crt``); may be missing or empty.
    """
    files = read_tree(repository / "images" / "student")
    files += read_tree(repository / "idl_hub" / "gpus" / "simulator", "simulator", (".c", ".h"))
    files += read_tree(repository / "idl_hub" / "lab" / "labextension", "lab/labextension")
    package = repository / "idl_hub"
    files += [ContextFile(f"lab/idl_hub/{name}", False, (package / name).read_bytes()) for name in LAB_MODULES]
    files += read_tree(certificates, "ca-certificates", (".crt",))
    # The folder must be there for COPY even when it is empty.
    files.append(ContextFile("ca-certificates/README", executable=False, content=b"Extra CA certificates.\n"))
    return tuple(sorted(files))


def fingerprint(files: Sequence[ContextFile], build_args: Mapping[str, str], base_image_id: str) -> str:
    """Return a SHA-256 over all that decides what the image will be."""
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)

    add(base_image_id.encode())
    for name, value in sorted(build_args.items()):
        add(b"argument", name.encode(), value.encode())
    for file in sorted(files):
        add(b"file", file.path.encode(), b"x" if file.executable else b"-", file.content)
    return digest.hexdigest()


def as_tar(files: Sequence[ContextFile]) -> bytes:
    """Pack a context for ``docker build -``; equal files give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            entry = tarfile.TarInfo(file.path)
            entry.size = len(file.content)
            entry.mode = 0o755 if file.executable else 0o644
            archive.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()
