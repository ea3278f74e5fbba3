"""The Docker engine of a server: what stands in its ``/etc/docker/daemon.json``, and how systemd starts it.

``docs/explanation/engines.md`` tells why an engine is configured like this.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 2376
"""Where an engine answers over TLS; Docker's own number for that."""

SERVICE_DROP_IN = """\
[Unit]
# The engine is to come back however often it failed, such as before the server had its address.
StartLimitIntervalSec=0

[Service]
# Debian's unit names a socket here, which the engine takes for a contradiction to "hosts" in daemon.json.
ExecStart=
ExecStart=/usr/sbin/dockerd --containerd=/run/containerd/containerd.sock
Restart=always
RestartSec=2
"""
"""For ``/etc/systemd/system/docker.service.d/``, on Debian 12 and 13."""


@dataclass(frozen=True)
class Certificates:
    """PEM files on the server: who vouches for the hub, and the engine's own certificate and key."""

    authority: Path = Path("/etc/docker/ca.pem")
    certificate: Path = Path("/etc/docker/server.pem")
    key: Path = Path("/etc/docker/server-key.pem")


def daemon_settings(
    address: str,
    certificates: Certificates,
    *,
    insecure_registries: Sequence[str] = (),
    registry_mirrors: Sequence[str] = (),
    name_servers: Sequence[str] = (),
    open_files: int = 65_536,
) -> dict[str, Any]:
    """Return the content of a server's ``daemon.json``.

    Parameters
    ----------
    address
        The one IP address of the server at which the engine answers the hub.
    certificates
        Who comes without a certificate of this authority is turned away: an engine's client is root.
    insecure_registries
        ``host:port`` of registries that speak plain HTTP or whose certificate nobody vouches for.
    registry_mirrors
        Addresses of mirrors of the public registry.
    name_servers
        Where containers ask for names; when empty, as the server itself does.
    open_files
        How many files a process in a container may have open; at most what the engine itself may.

    Raises
    ------
    ValueError
        The address is none, or means every address of the server.
    """
    host = ipaddress.ip_address(address)
    if host.is_unspecified:
        raise ValueError(f"{address} would open the engine at every address of the server; name one")
    shown = f"[{host}]" if host.version == 6 else str(host)
    settings: dict[str, Any] = {
        # The socket for root on the server itself, and TLS for the hub.
        "hosts": ["fd://", f"tcp://{shown}:{PORT}"],
        "tlsverify": True,
        "tlscacert": str(certificates.authority),
        "tlscert": str(certificates.certificate),
        "tlskey": str(certificates.key),
        # Containers go on when the engine ends, and are found again when it comes back.
        "live-restore": True,
        # systemd takes the devices of its scopes away at `systemctl daemon-reload`; it leaves alone what it did not
        # make.
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        # A process for each port would accept connections before anything listens behind it.
        "userland-proxy": False,
        # Students' containers are in a network of their own; who lands in the default one sees nobody, either.
        "icc": False,
        "ipv6": False,
        "ip6tables": False,
        "log-driver": "json-file",
        "log-opts": {"max-size": "10m", "max-file": "3"},
        # A crashed TensorFlow would write gigabytes of memory into the home.
        "default-ulimits": {
            "core": {"Name": "core", "Soft": 0, "Hard": 0},
            # Without a limit programs that walk over all possible files take minutes.
            "nofile": {"Name": "nofile", "Soft": open_files, "Hard": open_files},
        },
    }
    if insecure_registries:
        settings["insecure-registries"] = list(insecure_registries)
    if registry_mirrors:
        settings["registry-mirrors"] = list(registry_mirrors)
    if name_servers:
        settings["dns"] = list(name_servers)
    return settings
