"""A private Postgres for tests: its own cluster in its own folder, reached through a socket in there alone."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from contextlib import closing
from pathlib import Path

import psycopg

_PROGRAMS = "/usr/lib/postgresql/*/bin/pg_ctl"
_START_SECONDS = 60


class Postgres:
    """One running cluster; `stop` leaves nothing of it."""

    def __init__(self) -> None:
        self._programs = _find_programs()
        self._folder = Path(tempfile.mkdtemp(prefix="idlhub-pg-", dir="/tmp"))
        # Postgres refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(self._folder, self._user)
        data = self._folder / "data"
        self._run("initdb", "--pgdata", data, "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder} -c fsync=off"
        self._run(
            "pg_ctl", "start", "--wait", "--pgdata", data, "--log", self._folder / "log", "--options", options
        )  # fmt: skip

    def new_database(self) -> str:
        """Return the address of a fresh, empty database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with closing(psycopg.connect(f"host={self._folder} user=postgres", autocommit=True)) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@/{name}?host={self._folder}"

    def stop(self) -> None:
        """End the server and remove its files."""
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate", "--pgdata", self._folder / "data")
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [self._programs / program, *arguments]
        user = {"user": self._user, "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        with (self._folder.parent / f"{self._folder.name}.out").open("w+") as output:
            # Not a pipe: the server keeps it open.
            done = subprocess.run(
                command, cwd=self._folder, stdout=output, stderr=subprocess.STDOUT, timeout=_START_SECONDS, **user
            )  # fmt: skip
            output.seek(0)
            said = output.read()
        Path(output.name).unlink()
        assert done.returncode == 0, f"{program} failed: {said}"


def _find_programs() -> Path:
    """Return the folder of Postgres's programs, installing them with apt where they are missing."""
    if found := sorted(Path("/").glob(_PROGRAMS.lstrip("/"))):
        return found[-1].parent
    sudo = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    install = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "postgresql"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"Postgres is missing and cannot be installed: {done.stderr}"
    return max(Path("/").glob(_PROGRAMS.lstrip("/"))).parent
