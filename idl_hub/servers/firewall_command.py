"""``idl-hub firewall``: print, check and load the rules that keep students' containers apart."""

from __future__ import annotations

import re
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idl_hub.servers.firewall import TABLE, Firewall, FirewallError, Service, fingerprint, rules, unit

if TYPE_CHECKING:
    import argparse

    from idl_hub.servers.firewall import Address, Network

DEFAULT_BRIDGE = "idlhub0"
_NFT_SECONDS = 30
_SERVICE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+)):(?P<port>[0-9]{1,5})")
# With these the kernel shows the rules what goes from one container of a bridge to another.
_BRIDGE_SWITCHES = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
BRIDGE_SWITCHES = Path("/proc/sys/net/bridge")


class _NftError(Exception):
    """nft did not do it; the message says why and what to do."""


def add_commands(subparsers: Any) -> None:
    """Add the command ``firewall`` with its verbs."""
    parser = subparsers.add_parser("firewall", help="keep students' containers on this server apart")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, run, text in (
        ("show", _show, "print the nftables rules made of these values"),
        ("check", _check, "say whether these rules are in force on this server"),
        ("load", _load, "check the rules and put them in force, in place of those loaded before"),
    ):
        command = verbs.add_parser(verb, help=text, description=text)
        _add_values(command)
        command.set_defaults(run=run)
    text = "print the systemd unit that loads the rules in a file at boot, before Docker starts"
    command = verbs.add_parser("unit", help=text, description=text)
    command.add_argument("file", type=Path, help="absolute path of the file with the rules")
    command.set_defaults(run=_unit)


def _add_values(command: argparse.ArgumentParser) -> None:
    several = "may be given again"
    command.add_argument(
        "--bridge", default=DEFAULT_BRIDGE, metavar="NAME", help="interface of the students' network (%(default)s)"
    )
    command.add_argument(
        "--hub",
        action="append",
        default=[],
        metavar="ADDRESS",
        help=f"address from which hub and proxy reach students' containers; {several}",
    )
    command.add_argument(
        "--open",
        action="append",
        default=[],
        metavar="ADDRESS:PORT",
        help=f"what students reach inside: the hub's API, the proxy, the pages; {several}",
    )
    command.add_argument(
        "--resolver",
        action="append",
        default=[],
        metavar="ADDRESS",
        help=f"name server at an inside address, open on port 53; {several}",
    )
    command.add_argument(
        "--close",
        action="append",
        default=[],
        metavar="NETWORK",
        help=f"a network closed beside all private ones: the cluster's, when its addresses are public; {several}",
    )


def _firewall(arguments: argparse.Namespace) -> Firewall:
    return Firewall(
        bridge=arguments.bridge,
        hub=tuple(_address("--hub", text) for text in arguments.hub),
        open=tuple(_service(text) for text in arguments.open),
        resolvers=tuple(_address("--resolver", text) for text in arguments.resolver),
        closed=tuple(_network(text) for text in arguments.close),
    )


def _address(option: str, text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise FirewallError(f"{option} {text!r} is no IP address, such as 10.0.0.1") from None


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        raise FirewallError(f"--close {text!r} is no network, such as 203.0.113.0/24") from None


def _service(text: str) -> Service:
    found = _SERVICE.fullmatch(text)
    if found is None:
        raise FirewallError(f"--open {text!r} is no address with a port, such as 10.0.0.1:8081 or [fd00::1]:8081")
    return Service(_address("--open", found["six"] or found["four"]), int(found["port"]))


def _show(arguments: argparse.Namespace) -> int:
    try:
        print(rules(_firewall(arguments)), end="")
    except FirewallError as error:
        return _failed(error)
    return 0


def _unit(arguments: argparse.Namespace) -> int:
    if not arguments.file.is_absolute() or re.search(r"[\s%$\"'\\]", str(arguments.file)):
        return _failed(f"{str(arguments.file)!r} is no path that begins with / and has no blanks or quotes.")
    print(unit(str(arguments.file)), end="")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    try:
        firewall = _firewall(arguments)
        _nft("--check", "--file", "-", text=rules(firewall))
        loaded = _nft("list", "tables", "inet")
        table = _nft("list", "table", "inet", TABLE) if f"table inet {TABLE}\n" in f"{loaded}\n" else ""
    except (FirewallError, _NftError) as error:
        return _failed(error)
    if not table:
        return _failed("No rules are in force: students reach whatever this server reaches. Load them.")
    if f'comment "{fingerprint(firewall)}"' not in table:
        return _failed("Rules are in force, but others than those of these values. Load them again.")
    for name in _BRIDGE_SWITCHES:
        if not _is_on(BRIDGE_SWITCHES / name):
            return _failed(
                f"The rules are loaded, but {BRIDGE_SWITCHES / name} is not 1, so they do not see what goes from one "
                f"container of this server to another: modprobe br_netfilter; sysctl net.bridge.{name}=1"
            )
    print("These rules are in force.")
    return 0


def _is_on(switch: Path) -> bool:
    try:
        return switch.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def _load(arguments: argparse.Namespace) -> int:
    try:
        text = rules(_firewall(arguments))
        _nft("--check", "--file", "-", text=text)
        _nft("--file", "-", text=text)
    except (FirewallError, _NftError) as error:
        return _failed(error)
    print("The rules are in force, until this server restarts: `idl-hub firewall unit` prints what loads them then.")
    return 0


def _nft(*words: str, text: str = "") -> str:
    try:
        done = subprocess.run(
            ["nft", *words], input=text, capture_output=True, text=True, timeout=_NFT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise _NftError("nft is missing on this server; install the package nftables. Nothing was changed.") from None
    except subprocess.TimeoutExpired:
        raise _NftError(f"nft did not end within {_NFT_SECONDS} s. Look at the rules: nft list ruleset") from None
    if done.returncode == 0:
        return done.stdout
    if "Operation not permitted" in done.stderr:
        raise _NftError("Only root may look at and change the rules of this server: sudo. Nothing was changed.")
    raise _NftError(f"nft refuses the rules, and nothing was changed: {' '.join(done.stderr.split())}")


def _failed(what: object) -> int:
    print(f"idl-hub firewall: {what}", file=sys.stderr)
    return 1
