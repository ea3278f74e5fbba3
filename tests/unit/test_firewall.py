"""The text of a server's rules and the command that handles it; what the rules do is shown in tests/servers."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from idl_hub.cli import main
from idl_hub.servers import firewall_command
from idl_hub.servers.firewall import Firewall, FirewallError, Service, fingerprint, rules, unit

if TYPE_CHECKING:
    from pathlib import Path

HUB = ip_address("10.77.0.1")
PUBLIC = ip_address("203.0.113.5")
FIREWALL = Firewall(
    bridge="students0",
    hub=(HUB,),
    open=(Service(HUB, 8081), Service(PUBLIC, 443), Service(ip_address("fd77::1"), 8081)),
    resolvers=(ip_address("10.0.0.53"),),
    closed=(ip_network("198.51.100.0/24"), ip_network("2001:db8:1::/48")),
)
OPTIONS = [
    *("--bridge", "students0", "--hub", "10.77.0.1", "--resolver", "10.0.0.53"),
    *("--open", "203.0.113.5:443", "--open", "10.77.0.1:8081", "--open", "[fd77::1]:8081"),
    *("--close", "198.51.100.0/24", "--close", "2001:db8:1::/48"),
]


def elements(text: str, name: str) -> list[str]:
    """Return what is in a set of the table."""
    found = re.search(rf"set {name} \{{(.*?)\n\t\}}", text, flags=re.DOTALL)
    assert found, name
    content = re.search(r"elements = \{ (.*) \}", found[1])
    return content[1].split(", ") if content else []


def is_closed(address: str, firewall: Firewall = FIREWALL) -> bool:
    """Whether a student's packet to this address ends, unless its port is one of those named."""
    wanted = ip_address(address)
    networks = [ip_network(text) for text in elements(rules(firewall), f"closed{wanted.version}")]
    return any(wanted in network for network in networks)


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.251",
        "255.255.255.255",
        "0.0.0.0",
        "fd00:ec2::254",
        "fc00::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "::1",
        "::ffff:10.0.0.1",
    ],
)
def test_no_private_address_and_no_metadata_is_reached(address: str) -> None:
    assert is_closed(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "172.32.0.1", "192.0.1.1", "203.0.113.6", "2606:4700::1111"])
def test_the_internet_is_reached(address: str) -> None:
    assert not is_closed(address)


@pytest.mark.parametrize("address", ["203.0.113.5", "10.77.0.1", "fd77::1", "198.51.100.9", "2001:db8:1::5"])
def test_own_addresses_are_closed_although_they_are_public(address: str) -> None:
    assert is_closed(address)


def test_of_own_addresses_the_named_ports_are_open() -> None:
    text = rules(FIREWALL)
    assert set(elements(text, "open4")) == {"10.77.0.1 . 8081", "203.0.113.5 . 443"}
    assert set(elements(text, "open6")) == {"fd77::1 . 8081"}
    assert elements(text, "resolvers4") == ["10.0.0.53"]
    assert elements(text, "hub4") == ["10.77.0.1"]


def test_the_table_only_drops() -> None:
    verdicts = re.sub(r"policy accept;", "", rules(FIREWALL))
    assert " drop" in verdicts
    assert "accept" not in verdicts


def test_the_table_comes_before_dockers_in_both_ways_into_the_server() -> None:
    text = rules(FIREWALL)
    for hook in ("forward", "input"):
        assert f"type filter hook {hook} priority filter - 10;" in text


def test_a_load_replaces_the_one_before() -> None:
    assert rules(FIREWALL).startswith("table inet idl_hub\ndelete table inet idl_hub\ntable inet idl_hub {")


def test_no_closed_network_lies_within_another_which_nft_would_refuse() -> None:
    inner = Firewall("b", (HUB,), (Service(HUB, 1),), closed=(ip_network("10.9.0.0/16"), ip_network("8.0.0.0/6")))
    networks = [ip_network(text) for text in elements(rules(inner), "closed4")]
    assert ip_network("8.0.0.0/6") in networks
    assert not [(a, b) for a in networks for b in networks if a is not b and a.overlaps(b)]


def test_who_loads_the_same_values_in_another_order_loads_the_same_rules() -> None:
    turned = Firewall(
        FIREWALL.bridge, FIREWALL.hub, FIREWALL.open[::-1], FIREWALL.resolvers, closed=FIREWALL.closed[::-1]
    )
    assert rules(turned) == rules(FIREWALL)


def test_other_rules_have_another_fingerprint() -> None:
    less = Firewall(FIREWALL.bridge, FIREWALL.hub, FIREWALL.open[:1])
    assert fingerprint(less) != fingerprint(FIREWALL)
    assert f'comment "{fingerprint(FIREWALL)}"' in rules(FIREWALL)


@pytest.mark.parametrize("bridge", ["", 'a" accept', "a b", "sixteen-letters-", "a\nb", "*", "-a"])
def test_a_bridge_that_is_no_name_of_an_interface_is_refused(bridge: str) -> None:
    with pytest.raises(FirewallError, match="is no interface's name"):
        Firewall(bridge, (HUB,), (Service(HUB, 8081),))


def test_rules_that_would_shut_everybody_out_are_refused() -> None:
    with pytest.raises(FirewallError, match="no address of the hub"):
        Firewall("b", (), (Service(HUB, 8081),))
    with pytest.raises(FirewallError, match="no service is open"):
        Firewall("b", (HUB,), ())


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(FirewallError, match="is no port"):
        Firewall("b", (HUB,), (Service(HUB, port),))


@pytest.mark.parametrize("address", ["169.254.169.254", "168.63.129.16", "fd00:ec2::254"])
def test_metadata_cannot_be_opened(address: str) -> None:
    with pytest.raises(FirewallError, match="stays closed"):
        Firewall("b", (HUB,), (Service(ip_address(address), 80),))


def test_an_address_with_an_interface_does_not_become_part_of_the_rules() -> None:
    address = ip_address("fe80::1%x } ; flush ruleset ; {")
    for values in (
        {"hub": (address,)},
        {"resolvers": (address,)},
        {"closed": (ip_network(f"{address}/128"),)},
        {"open": (Service(address, 80),)},
    ):
        given: dict[str, Any] = {"bridge": "b", "hub": (HUB,), "open": (Service(HUB, 8081),)} | values
        with pytest.raises(FirewallError, match="names an interface"):
            Firewall(**given)


def test_without_rules_no_engine_starts() -> None:
    lines = unit("/etc/idl_hub/firewall.nft").splitlines()
    assert {"Before=docker.service", "RequiredBy=docker.service"} <= set(lines)
    assert "ExecStart=/usr/sbin/nft -f /etc/idl_hub/firewall.nft" in lines


# -- the command ------------------------------------------------------------------------------------------


def test_show_prints_the_rules_of_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firewall", "show", *OPTIONS]) == 0
    assert capsys.readouterr().out == rules(FIREWALL)


def test_unit_prints_what_loads_the_file_at_boot(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firewall", "unit", "/etc/rules.nft"]) == 0
    assert capsys.readouterr().out == unit("/etc/rules.nft")


@pytest.mark.parametrize("path", ["rules.nft", "/etc/my rules.nft", "/etc/100%.nft"])
def test_unit_refuses_a_path_that_systemd_would_read_otherwise(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firewall", "unit", path]) == 1
    assert "is no path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hub", "hub.example.org"], "--hub 'hub.example.org' is no IP address, such as 10.0.0.1"),
        (["--open", "10.0.0.1"], "--open '10.0.0.1' is no address with a port, such as 10.0.0.1:8081 or "),
        (["--open", "fd00::1:8081"], "--open 'fd00::1:8081' is no address with a port"),
        (["--open", "10.0.0.1:70000"], "70000 is no port: 1 to 65535 are allowed"),
        (["--close", "10.0.0.1/8"], "--close '10.0.0.1/8' is no network, such as 203.0.113.0/24"),
        (["--resolver", "53"], "--resolver '53' is no IP address"),
    ],
)
def test_a_wrong_value_is_named(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firewall", "show", *OPTIONS, *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["check", "load"])
def test_where_nft_is_missing_the_command_says_what_to_install(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["firewall", verb, *OPTIONS]) == 1
    assert "nft is missing on this server; install the package nftables" in capsys.readouterr().err


NFT = """\
#!/bin/sh
case "$*" in
    "list tables inet") echo "table inet idl_hub" ;;
    "list table inet idl_hub") cat {loaded} ;;
    *) cat > {loaded}.last; {then} ;;
esac
"""


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nft that shows this file as what is loaded: the real one needs a server of its own."""
    loaded = tmp_path / "loaded"
    loaded.write_text(rules(FIREWALL))
    place_nft(tmp_path, "true")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    switches = tmp_path / "switches"
    switches.mkdir()
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        (switches / name).write_text("1\n")
    monkeypatch.setattr(firewall_command, "BRIDGE_SWITCHES", switches)
    return loaded


def place_nft(folder: Path, then: str) -> None:
    program = folder / "nft"
    program.write_text(NFT.format(loaded=folder / "loaded", then=then))
    program.chmod(0o755)


@pytest.mark.usefixtures("nft")
def test_check_is_content_with_its_own_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firewall", "check", *OPTIONS]) == 0
    assert capsys.readouterr().out == "These rules are in force.\n"


@pytest.mark.usefixtures("nft")
def test_check_knows_other_rules_from_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firewall", "check", *OPTIONS, "--open", "10.0.0.9:80"]) == 1
    assert "others than those of these values" in capsys.readouterr().err


def test_check_says_when_neighbours_on_a_bridge_do_not_pass_the_rules(
    nft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nft.parent / "switches" / "bridge-nf-call-iptables").write_text("0\n")
    assert main(["firewall", "check", *OPTIONS]) == 1
    assert "modprobe br_netfilter; sysctl net.bridge.bridge-nf-call-iptables=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("netlink: Error: cache initialization failed: Operation not permitted", "Only root may look at and change"),
        ("Error: syntax error\nhere", "nft refuses the rules, and nothing was changed: Error: syntax error here"),
    ],
)
def test_load_tells_in_one_line_why_nft_refuses(
    nft: Path, error: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place_nft(nft.parent, f"echo '{error}' >&2; exit 1")
    assert main(["firewall", "load", *OPTIONS]) == 1
    assert message in capsys.readouterr().err
