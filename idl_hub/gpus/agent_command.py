"""``idl-hub agent``: tell the hub how this server's GPUs are doing."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import signal
import socket
import ssl
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.netutil import bind_sockets

from idl_hub.gpus.agent import make_server
from idl_hub.gpus.figures import FigureReader
from idl_hub.gpus.nvml import Nvml, Sampler
from idl_hub.gpus.processes import PROC, HostProcesses

if TYPE_CHECKING:
    import argparse

DEFAULT_PORT = 9810
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{32,512}")
_HOW_TO_MAKE_ONE = "(umask 077; openssl rand -hex 32 > FILE)"
_SECRET_BYTES = 65536
_FORBIDDEN_MODE = stat.S_IWGRP | stat.S_IRWXO
_SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class AgentError(Exception):
    """The agent does not start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class _Access:
    """Who may ask, and how."""

    address: str
    port: int
    token: str | None
    tls: ssl.SSLContext | None

    def url(self, port: int) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self.tls else 'http'}://{host}:{port}"


def add_commands(subparsers: Any) -> None:
    """Add the command ``agent``."""
    text = "tell the hub and Prometheus how this server's GPUs are doing; runs until it is stopped"
    parser = subparsers.add_parser("agent", help=text, description=text)
    parser.add_argument(
        "--listen", default="127.0.0.1", metavar="ADDRESS", help="an IP address of this server (%(default)s)"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="%(default)s; 0 takes a free one")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="holds what clients must send as a bearer token"
    )
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="PEM, with the chain; needed but on loopback")
    parser.add_argument("--key", type=Path, metavar="FILE", help="PEM, of the certificate")
    parser.add_argument(
        "--insecure-loopback", action="store_true", help="on loopback, let everybody in without a token"
    )
    parser.add_argument(
        "--server-name", default=socket.gethostname(), metavar="NAME", help="as the hub calls it (%(default)s)"
    )
    parser.add_argument(
        "--disk",
        type=Path,
        action="append",
        metavar="PATH",
        help="report this file system, too; may be given again (/)",
    )
    parser.add_argument(
        "--proc", type=Path, default=PROC, metavar="PATH", help="where the host's /proc is (%(default)s)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        _check(arguments.server_name, arguments.port)
        return asyncio.run(_serve(arguments, _access(arguments)))
    except AgentError as error:
        print(f"idl-hub agent: {error}", file=sys.stderr)
        return 1


def _check(name: str, port: int) -> None:
    if not _SERVER_NAME.fullmatch(name):
        raise AgentError(f"--server-name {name!r} is none: up to 63 letters, digits, '.', '-' and '_' are allowed.")
    if not 0 <= port <= 65535:  # the resolver would take it modulo 65536
        raise AgentError(f"--port {port} is none: 1 to 65535, or 0 for a free one.")


async def _serve(arguments: argparse.Namespace, access: _Access) -> int:
    """Listen and read until a signal says stop."""
    try:
        sockets = bind_sockets(access.port, access.address)
    except OSError as error:
        raise AgentError(
            f"It cannot listen on {access.address} port {access.port}: {error}. "
            "Is the port taken (`ss -ltnp`), or the address not this server's?"
        ) from error
    nvml = Nvml(arguments.server_name, processes=HostProcesses(arguments.proc), watch_xids=True)
    sampler = Sampler(nvml, figures=FigureReader(arguments.disk or [Path("/")]))
    server = make_server(sampler, nvml.errors, nvml.xids, token=access.token, tls=access.tls)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    sampler.start()
    server.add_sockets(sockets)
    url = access.url(sockets[0].getsockname()[1])
    print(f"idl-hub agent: {arguments.server_name} listens on {url}", flush=True)
    await stopped.wait()
    server.stop()
    await server.close_all_connections()
    sampler.stop()
    return 0


def _access(arguments: argparse.Namespace) -> _Access:
    """Return who may ask; refuses whatever would leave the agent open to the network."""
    address, loopback = _address(arguments.listen)
    if (arguments.certificate is None) != (arguments.key is None):
        raise AgentError("--certificate and --key go together; one of them is missing.")
    tls = _tls(arguments.certificate, arguments.key) if arguments.certificate else None
    if not loopback and (tls is None or arguments.token_file is None):
        raise AgentError(
            f"{address} can be reached over the network, so the agent needs a token and TLS: give --token-file, "
            "--certificate and --key. Only on 127.0.0.1 or ::1 it does without."
        )
    if arguments.token_file is not None:
        if arguments.insecure_loopback:
            raise AgentError("--insecure-loopback means no token; leave it or --token-file out.")
        return _Access(address, arguments.port, read_token(arguments.token_file), tls)
    if not arguments.insecure_loopback:
        raise AgentError(
            "No token: give --token-file, or, when every user of this machine may see the readings, "
            "--insecure-loopback."
        )
    return _Access(address, arguments.port, None, tls)


def _address(listen: str) -> tuple[str, bool]:
    """Return the address, and whether only this machine can reach it."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if listen == "localhost" else listen.strip("[]"))
    except ValueError as error:
        raise AgentError(
            f"--listen {listen!r} is no IP address; use one of this server's, such as 10.0.0.5."
        ) from error
    return str(address), address.is_loopback


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    _read_private(key, "key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        raise AgentError(
            f"{certificate} and {key} cannot be used for TLS: {error}. They must be PEM files that belong together, "
            "the key without a password."
        ) from error
    return context


def read_token(path: Path) -> str:
    """Return the token that a file holds.

    Raises
    ------
    AgentError
        The file is missing, others than its owner and group can get at it, or it holds no good token.
    """
    token = _read_private(path, "token").decode("ascii", errors="replace").strip()
    if not _TOKEN.fullmatch(token):
        raise AgentError(
            f"{path} holds no usable token: 32 to 512 letters, digits or . _ ~ + / = - are needed. "
            f"Make one: {_HOW_TO_MAKE_ONE.replace('FILE', str(path))}"
        )
    return token


def _read_private(path: Path, what: str) -> bytes:
    """Return the content of a secret's file, if nobody else could read or change it."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_SECRET_BYTES) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise AgentError(f"The {what} file {path} cannot be read: {error.strerror}.") from error
    if status.st_uid not in (0, os.geteuid()):
        raise AgentError(
            f"The {what} file {path} belongs to somebody else (uid {status.st_uid}), who could change it. "
            f"It must be root's or this user's: chown root {path}"
        )
    if status.st_mode & _FORBIDDEN_MODE:
        raise AgentError(
            f"The {what} file {path} can be read or changed by others (mode {stat.S_IMODE(status.st_mode):04o}), "
            f"so it is no secret. Make a new one, then: chmod 600 {path}"
        )
    return content
