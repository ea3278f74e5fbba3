"""Packs what images are built from; runs on the machine that runs Ansible.

Prints a sum over it; with ``--into`` it also writes a tar. Equal sources give equal bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

SOURCES = (
    "LICENSE",
    "README.md",
    "idl_hub",
    "images",
    "jupyterhub_config.d",
    "jupyterhub_config.py",
    "pyproject.toml",
    "requirements",
    "script",
    "setup.py",
)
LEFT_OUT = {"__pycache__", "node_modules", "build", "dist"}
GIT_SECONDS = 60


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--into", type=Path, metavar="FILE", help="write the tar here")
    given = parser.parse_args()
    packed = pack(given.checkout)
    if given.into:
        given.into.write_bytes(packed)
    print(hashlib.sha256(packed).hexdigest()[:16])


def pack(checkout: Path) -> bytes:
    """Return a tar of the sources, as they lie in the checkout now, changes that were not committed included."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in sorted(tracked(checkout) if _knows_git(checkout) else lying(checkout)):
            path = checkout / name
            if path.is_file():  # else it was removed and that is not committed yet
                _add(archive, name, path)
    return buffer.getvalue()


def tracked(checkout: Path) -> list[str]:
    """Return the sources that git knows: what lies beside them, and what git ignores, is nobody's business."""
    # A checkout of another user, as with sudo, is trusted: its plays are being run.
    git = ["git", "-C", str(checkout), "-c", f"safe.directory={checkout.resolve()}"]
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--", *SOURCES], check=True, stdout=subprocess.PIPE, timeout=GIT_SECONDS
    )
    return [name for name in listed.stdout.decode().split("\0") if name]


def lying(checkout: Path) -> list[str]:
    """Return the sources where there is no git, as in an unpacked archive: all but what programs leave behind."""
    found = []
    for source in SOURCES:
        place = checkout / source
        for path in [place] if place.is_file() else place.rglob("*"):
            parts = path.relative_to(checkout).parts
            hidden = any(part.startswith(".") or part.endswith(".egg-info") for part in parts)
            if path.is_file() and not hidden and not LEFT_OUT & set(parts) and not path.name.endswith((".pyc", "~")):
                found.append("/".join(parts))
    return found


def _knows_git(checkout: Path) -> bool:
    return (checkout / ".git").exists() and shutil.which("git") is not None


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    content = path.read_bytes()
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    archive.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    main()
