"""The engine's settings as the checkout's own function makes them, so that there is one truth about them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

_CHECKOUT = str(Path(__file__).resolve().parents[4])
if _CHECKOUT not in sys.path:
    sys.path.append(_CHECKOUT)

from idl_hub.servers.daemon import SERVICE_DROP_IN, Certificates, daemon_settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NETWORK_KEYS = ("tlsverify", "tlscacert", "tlscert", "tlskey")


def docker_daemon_settings(
    address: str,
    certificates: str,
    *,
    over_network: bool = True,
    metrics_port: int | None = None,
    open_files: int = 65_536,
    insecure_registries: Sequence[str] = (),
    registry_mirrors: Sequence[str] = (),
    name_servers: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of a machine's ``daemon.json``.

    Parameters
    ----------
    address
        Where the machine is reached inside the fleet.
    certificates
        Folder with the machine's certificate and its authority's.
    over_network
        Whether the engine answers at `address`; else on its socket alone.
    metrics_port
        Where it tells Prometheus about itself, at `address`; None for nowhere.
    open_files, insecure_registries, registry_mirrors, name_servers
        As `idl_hub.servers.daemon.daemon_settings` takes them.
    """
    folder = Path(certificates)
    settings = daemon_settings(
        address,
        Certificates(folder / "ca.pem", folder / "host.pem", folder / "host-key.pem"),
        open_files=open_files,
        insecure_registries=insecure_registries,
        registry_mirrors=registry_mirrors,
        name_servers=name_servers,
    )
    if not over_network:
        settings = {key: value for key, value in settings.items() if key not in _NETWORK_KEYS} | {"hosts": ["fd://"]}
    if metrics_port is not None:
        # Engines before 23 call their metrics experimental.
        shown = f"[{address}]" if ":" in address else address
        settings |= {"metrics-addr": f"{shown}:{metrics_port}", "experimental": True}
    return settings


def docker_drop_in(source: str) -> str:
    """Return the drop-in of docker.service for the packages of the distribution, or for Docker's own."""
    # Docker's own packages have the engine in another folder.
    return SERVICE_DROP_IN if source == "distribution" else SERVICE_DROP_IN.replace("/usr/sbin/", "/usr/bin/")


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"docker_daemon_settings": docker_daemon_settings, "docker_drop_in": docker_drop_in}
