"""A server's own nftables table: what students' containers reach, and who reaches them.

The table only drops. In nftables a packet that one base chain lets pass still goes through all others, while a
drop anywhere is final: so this table takes nothing away from Docker's rules or the site's, and none of theirs can
open what it closes. Docker does not know the table, so neither its restart nor its upgrade touches it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_network,
)
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

TABLE = "idl_hub"
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")

# RFC 6890 and its registry: what is not the internet, and so is, or may lead, inside.
NOT_THE_INTERNET: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/3",
        "::/96",
        "::ffff:0:0/96",
        "64:ff9b:1::/48",
        "fc00::/7",
        "fe80::/9",
        "ff00::/8",
    )
)
# What clouds tell a machine about itself, keys included. Most lie in the ranges above; named for those that do not,
# and so that nobody opens them by narrowing a range.
METADATA: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in ("169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "100.100.100.200", "fd00:ec2::254")
)


class FirewallError(ValueError):
    """A value cannot be used; the message says which and what is allowed."""


@dataclass(frozen=True, slots=True)
class Service:
    """A TCP port at an address."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class Firewall:
    """What one server's rules are made of.

    Attributes
    ----------
    bridge
        Interface of the students' Docker network.
    hub
        Addresses from which hub and proxy connect to students' containers, as the server sees them.
    open
        What students reach inside: the hub's API, the proxy, the pages. All else at these addresses is closed.
    resolvers
        Name servers at inside addresses, open on port 53. One on the internet need not be named.
    closed
        Networks closed beside those that are not the internet: the cluster's, when its addresses are public.
    """

    bridge: str
    hub: tuple[Address, ...]
    open: tuple[Service, ...]
    resolvers: tuple[Address, ...] = ()
    closed: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        if not _INTERFACE.fullmatch(self.bridge):
            raise FirewallError(f"the bridge {self.bridge!r} is no interface's name: up to 15 letters, digits, . _ -")
        if not self.hub:
            raise FirewallError("no address of the hub: then nobody at all would reach the students")
        if not self.open:
            raise FirewallError("no service is open to students: without the hub's API no session can start")
        given = (*self.hub, *self.resolvers, *(service.address for service in self.open))
        for address in (*given, *(network.network_address for network in self.closed)):
            # What follows the % is any text: it would become part of the rules.
            if isinstance(address, IPv6Address) and address.scope_id is not None:
                raise FirewallError(f"{address} names an interface; without the % and what follows it is an address")
        for service in self.open:
            if not 1 <= service.port <= 65535:
                raise FirewallError(f"{service.port} is no port: 1 to 65535 are allowed")
            if any(service.address in network for network in METADATA):
                raise FirewallError(f"{service.address} tells secrets of this machine and stays closed to students")

    @property
    def closed_networks(self) -> list[Network]:
        """All closed networks, none within another; each address of an own service is one."""
        own = {ip_network(address) for address in (*self.hub, *(service.address for service in self.open))}
        everything = {*NOT_THE_INTERNET, *METADATA, *self.closed, *own}
        four = [network for network in everything if isinstance(network, IPv4Network)]
        six = [network for network in everything if isinstance(network, IPv6Network)]
        return [*collapse_addresses(four), *collapse_addresses(six)]


def rules(firewall: Firewall) -> str:
    """Return the table for ``nft -f -``: loaded as a whole or not at all, as often as one likes."""
    body = _body(firewall)
    # Two lines before the table make a second load replace the first one, in the same transaction.
    head = f"table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n"
    return f'{head}\tcomment "{fingerprint(firewall)}"\n{body}}}\n'


def fingerprint(firewall: Firewall) -> str:
    """Return what the loaded table carries as its comment: these rules have it, others do not."""
    return f"idl_hub {hashlib.sha256(_body(firewall).encode()).hexdigest()[:16]}"


def _body(firewall: Firewall) -> str:
    services = [(service.address, f"{service.address} . {service.port}") for service in firewall.open]
    closed = [(network.network_address, str(network)) for network in firewall.closed_networks]
    sets = [
        *_sets("hub", "", [(address, str(address)) for address in firewall.hub]),
        *_sets("open", " . inet_service", services),
        *_sets("resolvers", "", [(address, str(address)) for address in firewall.resolvers]),
        *_sets("closed", "", closed, interval=True),
    ]
    return "\n".join(sets) + _CHAINS.replace("BRIDGE", firewall.bridge)


def _sets(name: str, more_type: str, elements: Iterable[tuple[Address, str]], *, interval: bool = False) -> list[str]:
    """Return the set of IPv4 addresses and that of IPv6 addresses; either may be empty."""
    lines = []
    given = list(elements)
    for version in (4, 6):
        texts = sorted({text for address, text in given if address.version == version})
        flags = "\n\t\tflags interval" if interval else ""
        content = f"\n\t\telements = {{ {', '.join(texts)} }}" if texts else ""
        lines.append(f"\tset {name}{version} {{\n\t\ttype ipv{version}_addr{more_type}{flags}{content}\n\t}}\n")
    return lines


# The priority is that of Docker's filter chains less ten: before them. Each packet is judged by where it goes, not by
# whether its connection was let in once: so a connection from before the rules were loaded ends when they are. Only
# answers pass unseen; an answer belongs to a connection that was judged on its way there.
_CHAINS = """
	chain forward {
		type filter hook forward priority filter - 10; policy accept;
		oifname "BRIDGE" jump to_students
		iifname "BRIDGE" jump from_students
	}

	chain input {
		type filter hook input priority filter - 10; policy accept;
		iifname "BRIDGE" jump to_this_server
	}

	chain to_students {
		ct direction reply return
		ct state related meta l4proto { icmp, icmpv6 } return
		ip saddr @hub4 return
		ip6 saddr @hub6 return
		goto closed
	}

	chain from_students {
		ct direction reply return
		ip daddr . tcp dport @open4 return
		ip6 daddr . tcp dport @open6 return
		ip daddr @resolvers4 meta l4proto { tcp, udp } th dport 53 return
		ip6 daddr @resolvers6 meta l4proto { tcp, udp } th dport 53 return
		ip daddr @closed4 goto closed
		ip6 daddr @closed6 goto closed
	}

	chain to_this_server {
		ct direction reply return
		ip daddr . tcp dport @open4 return
		ip6 daddr . tcp dport @open6 return
		ip daddr @resolvers4 meta l4proto { tcp, udp } th dport 53 return
		ip6 daddr @resolvers6 meta l4proto { tcp, udp } th dport 53 return
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } return
		goto closed
	}

	chain closed {
		limit rate 10/minute burst 20 packets log prefix "idl_hub closed: "
		counter drop
	}
"""


def unit(rules_file: str) -> str:
    """Return the systemd unit that loads the rules in a file at boot, before any container can run.

    Docker requires it: without rules no engine. The site's own nftables.service begins by deleting every table, so
    this one comes after it, and again whenever that one is started or reloaded.
    """
    return f"""\
[Unit]
Description=Keeps students' containers apart from each other and from what is inside
After=nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
Before=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {rules_file}
ExecReload=/usr/sbin/nft -f {rules_file}

[Install]
WantedBy=multi-user.target nftables.service
RequiredBy=docker.service
"""
