"""What the deployment's roles configure machines with, and what the preflight makes of what it sees."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from idl_hub.servers.daemon import SERVICE_DROP_IN, Certificates, daemon_settings
from idl_hub.servers.firewall import FirewallError
from idl_hub.servers.firewall_command import add_commands

ROLES = Path(__file__).resolve().parents[2] / "ansible" / "roles"
PKI = Path("/etc/idl_hub/pki")


def plugin(role: str, name: str) -> ModuleType:
    """Load a role's filters as Ansible does: from their file."""
    spec = importlib.util.spec_from_file_location(name, ROLES / role / "filter_plugins" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    return module


daemon = plugin("docker", "docker_daemon")
firewall = plugin("firewall", "firewall_rules")
preflight = plugin("preflight", "preflight_findings")


# -- the engine -------------------------------------------------------------------------------------------------------


def test_a_servers_engine_is_configured_as_the_package_says() -> None:
    expected = daemon_settings(
        "10.0.0.11",
        Certificates(PKI / "ca.pem", PKI / "host.pem", PKI / "host-key.pem"),
        registry_mirrors=["https://mirror.example.org"],
        open_files=1000,
    )
    made = daemon.docker_daemon_settings(
        "10.0.0.11", str(PKI), registry_mirrors=["https://mirror.example.org"], open_files=1000
    )
    assert made == expected


def test_an_engine_that_is_not_asked_over_the_network_has_its_socket_alone() -> None:
    made = daemon.docker_daemon_settings("10.0.0.1", str(PKI), over_network=False)
    assert made["hosts"] == ["fd://"]
    assert not [key for key in made if key.startswith("tls")]
    assert made["live-restore"] is True


def test_an_engines_metrics_are_at_the_fleets_address_and_nowhere_else() -> None:
    made = daemon.docker_daemon_settings("fd00::1", str(PKI), metrics_port=9323)
    assert made["metrics-addr"] == "[fd00::1]:9323"


def test_dockers_own_packages_have_the_engine_in_another_folder() -> None:
    assert daemon.docker_drop_in("distribution") == SERVICE_DROP_IN
    assert "ExecStart=/usr/bin/dockerd " in daemon.docker_drop_in("docker")
    assert "/usr/sbin" not in daemon.docker_drop_in("docker")


# -- the firewall -----------------------------------------------------------------------------------------------------


def test_the_students_rules_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    where = ["--hub", "10.0.0.1", "--open", "10.0.0.1:8081", "--resolver", "10.0.0.53", "--close", "203.0.113.0/24"]
    given = parser.parse_args(["firewall", "show", "--bridge", "idlhub0", *where])
    assert given.run(given) == 0
    made = firewall.firewall_student_rules(
        "idlhub0", ["10.0.0.1"], ["10.0.0.1:8081"] * 2, ["127.0.0.53", "10.0.0.53", "::1"], ["203.0.113.0/24"]
    )
    assert made == capsys.readouterr().out


def test_rules_that_cannot_be_made_say_why() -> None:
    with pytest.raises(FirewallError, match="no address of the hub"):
        firewall.firewall_student_rules("idlhub0", [], ["10.0.0.1:8081"])


def test_who_comes_from_outside_of_the_networks_for_ssh_is_found_out() -> None:
    assert firewall.firewall_allows("10.1.2.3", ["192.0.2.0/24", "10.1.0.0/16"])
    assert not firewall.firewall_allows("10.2.2.3", ["192.0.2.0/24", "10.1.0.0/16"])
    assert not firewall.firewall_allows("fd00::1", ["0.0.0.0/0"])


# -- the preflight ----------------------------------------------------------------------------------------------------

RULES = {
    "systems": ["debian 12"],
    "memory_gigabytes": {"hub": 4, "server": 8},
    "disk_gigabytes": {"hub": 30, "server": 30, "later": 3},
    "clock_seconds": 30,
    "driver_branch": 580,
    "ports": {"hub": {443: ["caddy"]}, "server": {2376: ["dockerd"]}, "all": {9100: ["prometheus"]}},
}
GOOD = {
    "asked": "1000",
    "clock": "1010",
    "user": "0",
    "processor": "x86_64",
    "system": "debian 12",
    "python": "yes",
    "python_apt": "yes",
    "memory_kilobytes": str(16 * 1024 * 1024),
    "free_kilobytes": str(100 * 1024 * 1024),
    "control_groups": "cgroup2fs",
    "cards": "8",
    "driver": "580.95.05",
}


def judged(
    values: Mapping[str, str] = {},
    *listens: str,
    without: tuple[str, ...] = (),
    is_hub: bool = False,
    simulated: int = 0,
    **result: Any,
) -> list[tuple[str, bool]]:
    """Return what is found on a machine, and whether it is a warning."""
    said = [f"{key} {value}" for key, value in {**GOOD, **values}.items() if key not in without]
    said += [f"listens {line}" for line in listens]
    given = {"is_hub": is_hub, "is_server": not is_hub, "simulated_gpus": simulated}
    machines = {"gpu01": {"result": {"stdout_lines": said, **result}, "given": given}}
    found = preflight.preflight_findings(machines, RULES)
    assert all(finding["machine"] == "gpu01" and finding["remedy"] for finding in found)
    return [(finding["what"], finding["is_warning"]) for finding in found]


def test_nothing_is_missing_on_a_good_machine() -> None:
    assert judged() == []
    assert judged({}, "2376 dockerd", "9100 prometheus-node", "22 sshd") == []


def test_everything_that_is_missing_on_a_machine_is_said_at_once() -> None:
    bad = {
        "system": "debian 11",
        "processor": "aarch64",
        "memory_kilobytes": str(4 * 1024 * 1024),
        "free_kilobytes": str(1024 * 1024),
        "clock": "940",
        "cards": "0",
    }
    assert judged(bad, "2376 apache2", without=("python_apt",)) == [
        ("has no Python that Ansible can use", False),
        ("runs debian 11", False),
        ("has the processor aarch64", False),
        ("has 4.0 GB of memory", False),
        ("has 1.0 GB free below /var/lib", False),
        ("its clock is 60 s behind the clock here", False),
        ("port 2376 is taken by apache2", False),
        ("has no NVIDIA card", False),
    ]


def test_a_machine_that_is_not_reached_or_where_ansible_is_not_root_is_told_apart() -> None:
    assert judged(unreachable=True, msg="Task failed: timed out") == [("is not reached by ssh: timed out", False)]
    assert judged(without=tuple(GOOD), msg="Missing sudo password") == [
        ("Ansible is not root there: Missing sudo password", False)
    ]


def test_a_machine_that_is_ours_already_needs_less_and_its_ports_are_a_warning() -> None:
    ours = {"ours": "yes", "free_kilobytes": str(4 * 1024 * 1024)}
    assert judged(ours, "2376 something") == [("port 2376 is taken by something", True)]


def test_simulated_gpus_need_no_card_and_the_hub_needs_none() -> None:
    assert judged({"cards": "0", "driver": ""}, simulated=2) == []
    assert judged({"cards": "0", "driver": ""}, is_hub=True) == []


def test_another_driver_is_a_warning_and_one_put_there_by_hand_is_not() -> None:
    assert judged({"driver": "595.10"}) == [("runs the driver 595.10", True)]
    assert judged({"driver_by_hand": "yes"}) == [("its driver was installed by NVIDIA's own installer", False)]


def test_the_script_sees_what_this_machine_is_like() -> None:
    now = int(time.time())
    script = ["sh", str(ROLES / "preflight" / "files" / "look.sh"), str(now)]
    said = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True).stdout
    look = preflight.Look.of(said.splitlines())
    assert 0 <= look.number("clock") - look.number("asked") < 60
    assert look.number("memory_kilobytes") > 100_000
    assert look.number("free_kilobytes") > 0
    assert {"user", "processor", "system", "cards", "control_groups"} <= set(look.values)


def test_the_inventorys_addresses_are_looked_at_together() -> None:
    given = {
        "hub": {"address": "10.0.0.1", "wireguard": "10.90.0.1"},
        "gpu01": {"address": "gpu01.example.org", "wireguard": "10.90.0.1"},
        "gpu02": {"address": "10.0.0.1", "wireguard": ""},
    }
    found = preflight.preflight_inventory(given, {"gpu_servers": ["gpu01", "gpu02"], "homes_server": ["hub", "gpu01"]})
    assert [(finding["machine"], finding["what"]) for finding in found] == [
        ("the inventory", "must have exactly one machine in the group homes_server"),
        ("gpu01", "ansible_host is 'gpu01.example.org', which is no IP address"),
        ("hub, gpu02", "have the same ansible_host, 10.0.0.1"),
        ("hub, gpu01", "have the same wireguard_address, 10.90.0.1"),
        ("gpu02", "have no wireguard_address, while others have"),
    ]


def settings(**given: Any) -> list[tuple[str, bool]]:
    filled_in = {
        "domain": "localhost",
        "addresses": ["127.0.0.1", "::1"],
        "trial": False,
        "login": "oauth",
        "backup": "/srv/backup",
    }
    found = preflight.preflight_settings(filled_in | given)
    return [(finding["what"], finding["is_warning"]) for finding in found]


def test_settings_that_are_not_filled_in_are_named() -> None:
    assert settings() == []
    assert settings(domain="hub.example.org", login="", backup="") == [
        ("fleet_domain is not filled in", False),
        ("hub_login does not say how people prove who they are", False),
        ("there is no backup", True),
    ]


def test_a_domain_must_lead_to_the_hub_unless_it_is_a_trial() -> None:
    assert [warning for _, warning in settings(addresses=["192.0.2.1"])] == [False]
    assert settings(domain="no-such-name.invalid") == [("nobody knows the name no-such-name.invalid", False)]
    assert settings(domain="no-such-name.invalid", trial=True) == [("nobody knows the name no-such-name.invalid", True)]
    assert settings(trial=True, login="demo") == []


def test_machines_with_the_same_problem_share_a_line() -> None:
    same = {"what": "has no card", "remedy": "Build one in.", "is_warning": False}
    found = [same | {"machine": "gpu01"}, same | {"machine": "gpu02"}, same | {"machine": "gpu03", "is_warning": True}]
    assert preflight.preflight_list(found, warnings=False) == ["gpu01, gpu02: has no card. -> Build one in."]
    assert preflight.preflight_list(found, warnings=True) == ["gpu03: has no card. -> Build one in."]
