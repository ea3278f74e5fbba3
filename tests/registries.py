"""Debian's docker-registry for tests: with its own storage, on an address of the test's choice."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from hubs import ROOT, wait_for

_UNPACKED = ROOT / ".state" / "registry" / "usr" / "bin" / "docker-registry"


@dataclass(frozen=True)
class Certificate:
    """PEM files: who vouches for the registry, its certificate, its key."""

    authority: Path
    certificate: Path
    key: Path


class RegistryServer:
    """A registry that runs as a child process: ``with RegistryServer(folder) as registry:``.

    Parameters
    ----------
    folder
        Empty or missing folder for configuration, images and log.
    certificate
        None: without TLS, which Docker engines accept on loopback.
    """

    def __init__(
        self, folder: Path, host: str = "127.0.0.1", port: int = 0, certificate: Certificate | None = None
    ) -> None:
        self.folder = folder
        self.storage = folder / "storage"
        self.address = f"{host}:{port or _free_port(host)}"
        self._certificate = certificate
        self._configuration = folder / "config.yml"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self._configuration.write_text(json.dumps(self._settings()))

    def _settings(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": self.address}
        if self._certificate is not None:
            http["tls"] = {"certificate": str(self._certificate.certificate), "key": str(self._certificate.key)}
        return {
            "version": 0.1,
            "log": {"accesslog": {"disabled": False}},
            "storage": {
                "cache": {"blobdescriptor": "inmemory"},
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
            },
            "http": http,
        }

    def __enter__(self) -> RegistryServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it (again), and return when it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program(), "serve", str(self._configuration)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_for(self._answers, f"the registry to answer; see {self.folder / 'log'}")

    def stop(self) -> None:
        """End it; its images stay."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)

    def collect_garbage(self) -> None:
        """Free the space of what was removed, as docs/howto/new-image.md tells: while it does not run."""
        self.stop()
        done = subprocess.run(
            [_program(), "garbage-collect", str(self._configuration)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        self.start()

    def pushed(self) -> int:
        """Return how many images it was given since its first start, the same one again included."""
        return len(re.findall(r"PUT /v2/\S+/manifests/", (self.folder / "log").read_text()))

    def stored_bytes(self) -> int:
        """Return how much it has on its disk."""
        return sum(file.stat().st_size for file in self.storage.rglob("*") if file.is_file())

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        scheme = "http" if self._certificate is None else "https"
        with requests.Session() as session:
            session.trust_env = False
            if self._certificate is not None:
                session.verify = str(self._certificate.authority)
            try:
                return session.get(f"{scheme}://{self.address}/v2/", timeout=2).ok
            except requests.ConnectionError:
                return False


def _program() -> str:
    program = shutil.which("docker-registry") or (str(_UNPACKED) if _UNPACKED.exists() else "")
    assert program, "docker-registry is missing; script/test fetches it"
    return program


def _free_port(host: str) -> int:
    with socket.socket() as taken:
        taken.bind((host, 0))
        return int(taken.getsockname()[1])
