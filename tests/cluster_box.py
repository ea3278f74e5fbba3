"""A machine for tests: a container with its own systemd."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

_EXEC_SECONDS = 120


class Box:
    """A container of this machine's engine that stands for a machine.

    Attributes
    ----------
    name, address, address6
        ``gpu01``, and where it is reached on the cluster's network.
    container
        Id of the container on this machine's engine.
    """

    def __init__(self, name: str, address: str, address6: str) -> None:
        self.name = name
        self.address = address
        self.address6 = address6
        self.container = ""

    def write(self, files: Mapping[str, bytes], mode: int = 0o600) -> None:
        """Write files of root's on the machine, whether it runs or not; paths without the first slash."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, content in files.items():
                for parent in reversed(Path(path).parents[:-1]):
                    entry = tarfile.TarInfo(str(parent))
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), mode
                archive.addfile(entry, io.BytesIO(content))
        copy = ["docker", "cp", "-", f"{self.container}:/"]
        done = subprocess.run(copy, input=buffer.getvalue(), capture_output=True, timeout=_EXEC_SECONDS)
        assert done.returncode == 0, done.stderr.decode()

    def exec(self, *command: str, check: bool = True, given: str = "") -> str:
        """Run a command on the machine as root; return what it printed, errors too unless it is to be checked."""
        interactive = ["--interactive"] if given else []
        done = subprocess.run(
            ["docker", "exec", *interactive, self.container, *command],
            input=given,
            capture_output=True,
            text=True,
            timeout=_EXEC_SECONDS,
        )
        assert done.returncode == 0 or not check, f"{self.name}: {' '.join(command)}: {done.stdout}{done.stderr}"
        return (done.stdout if check else done.stdout + done.stderr).strip()

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run the docker command on the machine; return what it printed."""
        return self.exec("docker", *arguments, check=check)
