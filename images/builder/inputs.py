"""What goes into the student image: the build context and the fingerprint that tells whether it changed."""

from __future__ import annotations

import ast
import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXECUTABLE = 0o100
# What of idl_hub a student's server loads; what these import comes along.
LAB = ("lab/__init__.py", "lab/server.py", "lab/kernels.py")


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
    for path in with_imports([package / name for name in LAB], package):
        inner = str(Path("lab/idl_hub") / path.relative_to(package))
        files.append(ContextFile(inner, executable=False, content=path.read_bytes()))
    files += read_tree(certificates, "ca-certificates", (".crt",))
    # The folder must be there for COPY even when it is empty.
    files.append(ContextFile("ca-certificates/README", executable=False, content=b"Extra CA certificates.\n"))
    return tuple(sorted(files))


def with_imports(modules: Sequence[Path], package: Path) -> list[Path]:
    """Return modules of a package, what of the package they import, and so on; imports for types alone do not count."""
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path, package)
    return sorted(found)


def _imported(path: Path, package: Path) -> list[Path]:
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        waiting += ast.iter_child_nodes(node)
    inner = [name.split(".")[1:] for name in names if name.split(".")[0] == package.name]
    files = []
    for parts in inner:
        for depth in range(len(parts) + 1):  # a package comes before its modules
            place = package.joinpath(*parts[:depth])
            files += [file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()]
    return files


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
