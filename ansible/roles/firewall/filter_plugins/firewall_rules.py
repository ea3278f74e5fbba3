"""The rules about students' containers as the checkout's own functions make them."""

from __future__ import annotations

import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

_CHECKOUT = str(Path(__file__).resolve().parents[4])
if _CHECKOUT not in sys.path:
    sys.path.append(_CHECKOUT)

from idl_hub.servers.firewall import Firewall, Service, rules, unit  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def firewall_student_rules(
    bridge: str,
    hub: Sequence[str],
    opened: Sequence[str],
    resolvers: Sequence[str] = (),
    closed: Sequence[str] = (),
) -> str:
    """Return the table about students' containers, as `idl_hub.servers.firewall` makes it.

    Parameters
    ----------
    bridge
        Interface of the students' network.
    hub
        Addresses from which students' containers are reached.
    opened
        ``ADDRESS:PORT`` of what they reach inside.
    resolvers
        Name servers; those at loopback addresses are left out, since no container reaches them.
    closed
        Networks closed beside all private ones.

    Raises
    ------
    ValueError
        A value cannot be used; the message says which.
    """
    asked = [address for address in map(ip_address, dict.fromkeys(resolvers)) if not address.is_loopback]
    return rules(
        Firewall(
            bridge=bridge,
            hub=tuple(ip_address(text) for text in dict.fromkeys(hub)),
            open=tuple(_service(text) for text in dict.fromkeys(opened)),
            resolvers=tuple(asked),
            closed=tuple(ip_network(text) for text in closed),
        )
    )


def _service(text: str) -> Service:
    address, _, port = text.rpartition(":")
    return Service(ip_address(address.strip("[]")), int(port))


def firewall_unit(file: str) -> str:
    """Return the unit that loads the rules in a file before Docker starts."""
    return unit(file)


def firewall_allows(address: str, networks: Sequence[str]) -> bool:
    """Whether an address is in one of the networks."""
    found = ip_address(address)
    return any(found in ip_network(network, strict=False) for network in networks)


def firewall_of_version(networks: Sequence[str], version: int) -> list[str]:
    """Return the networks (or addresses) of IPv4 or of IPv6."""
    return [text for text in dict.fromkeys(networks) if ip_network(text, strict=False).version == version]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {
            "firewall_allows": firewall_allows,
            "firewall_of_version": firewall_of_version,
            "firewall_student_rules": firewall_student_rules,
            "firewall_unit": firewall_unit,
        }
