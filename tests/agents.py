"""Agents for tests: the real command as a process, on a free port, with a token and a certificate of its own."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from idl_hub.gpus import ServerReading, wire
from idl_hub.gpus.simulator import Simulator

_START_SECONDS = 30


def write_private(path: Path, content: bytes) -> Path:
    """Write a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    return path


def write_certificate(directory: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """Return the files of a certificate for an address, which is its own authority, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an agent")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    certificate_path = directory / "certificate.pem"
    certificate_path.write_bytes(certificate.public_bytes(pem))
    key_bytes = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate_path, write_private(directory / "key.pem", key_bytes)


class RunningAgent:
    """``idl-hub agent`` as a process on 127.0.0.1, reading the GPUs of a simulator.

    Parameters
    ----------
    directory
        For its token, certificate and key.
    options
        More of the command line.
    """

    def __init__(
        self,
        simulator: Simulator,
        library: Path,
        directory: Path,
        *,
        server: str = "gpu01",
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.server = server
        self.token = secrets.token_hex(32)
        self.token_file = write_private(directory / "token", self.token.encode())
        self.certificate, self.key = write_certificate(directory)
        command = [sys.executable, "-m", "idl_hub.cli", "agent", "--port", "0", "--server-name", server]
        command += ["--token-file", str(self.token_file), "--certificate", str(self.certificate)]
        command += ["--key", str(self.key), *options]
        self.process = subprocess.Popen(
            command,
            env=os.environ | simulator.environment(library) | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output: list[str] = []
        self._first_line: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()
        line = self._first_line.get(timeout=_START_SECONDS)
        assert " listens on " in line, self.output
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    def __enter__(self) -> RunningAgent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def get(self, page: str, token: str | None = "", method: str = "GET", **more: object) -> requests.Response:
        """Ask for a page; with an empty token the right one is sent, with None none."""
        headers = {} if token is None else {"Authorization": f"Bearer {token or self.token}"}
        return requests.request(
            method, self.url + page, headers=headers, verify=str(self.certificate), timeout=10, **more
        )

    def reading(self) -> ServerReading:
        answer = self.get("/readings")
        assert answer.status_code == 200, answer.text
        return wire.decode(answer.content, time.time())

    def reading_where(self, condition: Callable[[ServerReading], bool], seconds: float = 15) -> ServerReading:
        """Return the first reading of which this is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = self.get("/readings")
            if answer.status_code == 200:
                reading = wire.decode(answer.content, time.time())
                if condition(reading):
                    return reading
            time.sleep(0.05)  # it sends no event
        raise AssertionError(f"never came true; the last answer was {answer.status_code} {answer.text[:2000]}")

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 15) -> int:
        """End it with a signal; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            self._reader.join(5)
            assert self.process.stdout is not None
            self.process.stdout.close()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if len(self.output) == 1:
                self._first_line.put(line)
        self._first_line.put("")
