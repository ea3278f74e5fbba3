"""Whether a port is free, and who has it."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from script.lib.console import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LISTENING = "0A"


def require_free(address: str, port: int, purpose: str, remedy: str, deadline_seconds: float = 5) -> None:
    """Return once the port can be listened on.

    Raises
    ------
    SetupError
        When somebody has it until the deadline; it names who, where that can be seen.
    """
    deadline = time.monotonic() + deadline_seconds
    while (fault := _fault(address, port)) is not None:
        if time.monotonic() > deadline:
            raise SetupError(f"Port {port} at {address}, for {purpose}, cannot be used: {fault}{holder(port)}.", remedy)
        time.sleep(0.2)  # nothing tells when a port comes free


def _fault(address: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def holder(port: int) -> str:
    """Return text such as ", process 123 (nginx) has it", or nothing when that cannot be seen."""
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for folder in Path("/proc").glob("[0-9]*"):
        if wanted & set(_open_files(folder)):
            with suppress(OSError):
                return f", process {folder.name} ({(folder / 'comm').read_text().strip()}) has it"
    return ""


def _open_files(process: Path) -> Iterator[str]:
    """Yield what a process has open, as far as this user may see it; files close while we look."""
    with suppress(OSError):
        for link in (process / "fd").iterdir():
            with suppress(OSError):
                yield str(link.readlink())


def _listening_inodes(port: int) -> list[str]:
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTENING and re.search(rf":{port:04X}$", fields[1]):
                found.append(fields[9])
    return found
