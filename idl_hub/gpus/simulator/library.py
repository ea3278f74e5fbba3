"""Compiles the stand-in ``libnvidia-ml.so.1``."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SONAME = "libnvidia-ml.so.1"
_SOURCES = Path(__file__).parent
_FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-pthread", f"-Wl,-soname,{SONAME}")
_COMPILE_SECONDS = 120


class BuildError(Exception):
    """The stand-in could not be compiled; the message says why and what to do."""


def build(directory: Path) -> Path:
    """Return the library in this directory, compiled if its source changed since.

    Raises
    ------
    BuildError
        No compiler, no space, or the compiler refused.
    """
    library = directory / SONAME
    stamp = directory / f"{SONAME}.source"
    digest = _digest()
    if library.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return library
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BuildError(
            "No C compiler was found (cc, gcc), so the simulated GPUs' library cannot be built. "
            "Install one: apt install gcc libc6-dev"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as scratch:
            _compile(compiler, Path(scratch) / SONAME)
            stamp.unlink(missing_ok=True)  # an interruption between these lines means: build again
            Path(scratch, SONAME).replace(library)  # programs that run keep the old file
            (Path(scratch) / "source").write_text(digest, encoding="ascii")
            Path(scratch, "source").replace(stamp)
    except OSError as error:
        raise BuildError(f"The simulated GPUs' library cannot be written to {directory}: {error.strerror}") from error
    return library


def _digest() -> str:
    digest = hashlib.sha256(repr((_FLAGS, os.uname().machine)).encode())
    for source in sorted([*_SOURCES.glob("*.c"), *_SOURCES.glob("*.h")]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def _compile(compiler: str, library: Path) -> None:
    command = [compiler, *_FLAGS, "-o", str(library), str(_SOURCES / "nvml.c")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"The C compiler did not end within {_COMPILE_SECONDS} s: {' '.join(command)}") from error
    if done.returncode != 0:
        raise BuildError(f"The C compiler failed: {' '.join(command)}\n{done.stderr.strip()}")
