"""The ground of a deployment on bare machines: encrypted network, firewall, certificates, engines."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.firewall_matrix import check, inner
from ansible.machine import Machine
from ansible.machines import Machines
from ansible.plays import Played

# Each test is several runs of Ansible.
pytestmark = pytest.mark.timeout(1800)
ROLES = ("base", "wireguard", "firewall", "pki", "docker", "nvidia")
_PREFERENCES = Path(__file__).resolve().parents[2] / "ansible" / "roles" / "nvidia" / "templates" / "preferences.j2"
_REFUSE_SSH = """
table inet tests_refuse {
    chain input { type filter hook input priority -300; tcp dport 22 reject with tcp reset; }
}
"""
_OFFER = """
Package: {name}
Version: {version}
Architecture: amd64
Maintainer: nobody
Filename: ./{name}_{version}.deb
Size: 1
SHA256: 0000000000000000000000000000000000000000000000000000000000000000
Description: made up
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with Machines(tmp_path_factory.mktemp("ground") / "fleet", count=2, debian="trixie") as machines:
        yield machines


def run(machines: Machines, roles: tuple[str, ...] = ROLES, *arguments: str) -> Played:
    """Run roles as site.yml does, after the preflight."""
    playbook = machines.folder / "ground.yml"
    lines = "".join(f"    - role: {role}\n" for role in roles)
    preflight = Path(__file__).resolve().parents[2] / "ansible" / "preflight.yml"
    playbook.write_text(
        f"- import_playbook: {preflight}\n- hosts: all\n  become: true\n  any_errors_fatal: true\n  roles:\n{lines}"
    )
    return machines.play(str(playbook), *arguments, timeout_seconds=900)


def test_a_look_at_bare_machines_changes_nothing(machines: Machines) -> None:
    looked = run(machines, ROLES, "--check", "--diff")
    assert looked.status == 0
    assert all(machines.machine(name).exec("ls", "/etc").find("idl_hub") == -1 for name in machines.machines)


def test_everything_that_is_missing_is_said_at_once_before_anything_changes(machines: Machines) -> None:
    gpu01 = machines.machine("gpu01")
    taken = (
        "import socket, sys; taken = socket.create_server(('', 2376)); print('listens', flush=True); sys.stdin.read()"
    )
    command = ["docker", "exec", "-i", gpu01.container, "python3", "-c", taken]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as blocking:
        assert blocking.stdout is not None
        assert blocking.stdout.readline() == "listens\n"
        machines.machine("gpu02").exec("nft", "-f", "-", given=_REFUSE_SSH)
        try:
            refused = run(machines, ROLES, "-e", "fleet_trial=false")
        finally:
            machines.machine("gpu02").exec("nft", "delete", "table", "inet", "tests_refuse")
            blocking.communicate("", timeout=60)
    assert refused.status != 0
    said = " ".join(refused.output.split())
    for problem in (
        "gpu02: is not reached by ssh",
        "gpu01: port 2376 is taken by python3. -> We need it for dockerd",
        "nobody knows the name hub.test",
        "hub_login does not say how people prove who they are",
    ):
        assert problem in said
    assert refused.changed == dict.fromkeys(machines.machines, 0)
    assert "TASK [base :" not in refused.output


def test_bare_machines_get_the_ground_and_a_second_run_changes_nothing(machines: Machines) -> None:
    first = run(machines)
    assert first.status == 0
    second = run(machines)
    assert second.status == 0
    assert second.changed == dict.fromkeys(machines.machines, 0)
    assert run(machines, ROLES, "--check", "--diff").changed == dict.fromkeys(machines.machines, 0)


def test_who_is_not_named_reaches_nothing(machines: Machines) -> None:
    check(machines)


def test_networks_that_would_shut_ansible_out_are_refused(machines: Machines) -> None:
    before = machines.machine("hub").exec("nft", "list", "table", "inet", "idl_hub_host")
    refused = run(machines, ("firewall",), "-e", '{"firewall_ssh_from": ["192.0.2.0/24"]}')
    assert refused.status != 0
    assert "the rules would shut it out" in " ".join(refused.output.split())
    assert machines.machine("hub").exec("nft", "list", "table", "inet", "idl_hub_host") == before


def test_tables_that_somebody_emptied_come_back(machines: Machines) -> None:
    gpu01 = machines.machine("gpu01")
    gpu01.exec("nft", "delete", "table", "inet", "idl_hub")
    gpu01.exec("nft", "delete", "table", "inet", "idl_hub_host")
    engine = gpu01.exec("systemctl", "show", "--property=MainPID", "docker.service")
    assert run(machines, ("firewall",)).status == 0
    tables = gpu01.exec("nft", "list", "tables", "inet").splitlines()
    assert {"table inet idl_hub", "table inet idl_hub_host"} <= set(tables)
    assert gpu01.exec("systemctl", "show", "--property=MainPID", "docker.service") == engine


def test_a_certificate_near_its_end_is_renewed_and_used_while_containers_go_on(machines: Machines) -> None:
    gpu01 = machines.machine("gpu01")
    container = gpu01.docker("run", "--detach", "--entrypoint", "sleep", "idl-hub/student:latest", "3600")
    assert run(machines, ("pki",), "-e", "pki_days=30", "-e", "pki_renew_days=900").status == 0
    short = _served(machines)
    renewed = run(machines, ("pki",))
    assert renewed.status == 0
    assert _served(machines) != short
    assert "Certificate will not expire" in gpu01.exec(
        "openssl", "x509", "-noout", "-checkend", str(60 * 86400), "-in", "/etc/idl_hub/pki/host.pem"
    )
    assert gpu01.docker("ps", "--quiet", "--no-trunc") == container
    assert run(machines, ("pki",)).changed == dict.fromkeys(machines.machines, 0)
    gpu01.docker("rm", "--force", container)


def _served(machines: Machines) -> str:
    """Return the certificate with which gpu01's engine answers the hub; the hub trusts it."""
    code = """
import socket, ssl, sys
context = ssl.create_default_context(cafile="/etc/idl_hub/pki/ca.pem")
context.load_cert_chain("/etc/idl_hub/pki/hub.pem", "/etc/idl_hub/pki/hub-key.pem")
with socket.create_connection((sys.argv[1], 2376), 10) as plain:
    with context.wrap_socket(plain, server_hostname=sys.argv[1]) as talking:
        print(ssl.DER_cert_to_PEM_cert(talking.getpeercert(binary_form=True)))
"""
    return machines.machine("hub").exec("python3", "-c", code, inner(machines, "gpu01"))


def test_no_key_leaves_its_machine(machines: Machines) -> None:
    keys = [
        machine.exec("sha256sum", "/etc/wireguard/idl_hub.key", "/etc/idl_hub/pki/host-key.pem").split()[::2]
        for machine in machines.machines.values()
    ]
    assert len({key for pair in keys for key in pair}) == 2 * len(machines.machines)
    found = [name for name, machine in machines.machines.items() if _has(machine, "/etc/idl_hub/pki/ca-key.pem")]
    assert found == ["hub"]


def _has(machine: Machine, path: str) -> bool:
    return machine.exec("sh", "-c", f"test -e {path} && echo yes || echo no") == "yes"


def test_a_machine_that_joins_is_known_to_the_others_who_keep_their_connections(machines: Machines) -> None:
    hub = machines.machine("hub")
    started = hub.exec("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "wg-quick@wg-idlhub.service")
    machines.add("gpu03")
    assert run(machines, ("base", "wireguard", "firewall")).status == 0
    code = "import socket, sys; socket.create_connection((sys.argv[1], 22), 20); print('reached')"
    for name in ("hub", "gpu01"):
        assert machines.machine(name).exec("python3", "-c", code, inner(machines, "gpu03")) == "reached"
    again = hub.exec("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "wg-quick@wg-idlhub.service")
    assert again == started


def test_apt_takes_the_driver_of_one_branch_alone(machines: Machines) -> None:
    gpu01 = machines.machine("gpu01")
    names = ("nvidia-driver-cuda", "nvidia-kernel-dkms", "libcuda1", "nvidia-persistenced")
    versions = ("535.247.01-1", "580.95.05-1", "595.10-1")
    offers = [_OFFER.format(name=name, version=version) for name in names for version in versions]
    offers.append(_OFFER.format(name="nvidia-container-toolkit", version="1.17.8-1"))
    preferences = _PREFERENCES.read_text(encoding="utf-8").replace("{{ nvidia_driver_branch }}", "580")
    gpu01.write(
        {
            "opt/offers/Packages": "".join(offers).encode(),
            "etc/apt/sources.list.d/offers.list": b"deb [trusted=yes] file:/opt/offers ./\n",
            "etc/apt/preferences.d/idl-hub-nvidia": preferences.encode(),
        },
        mode=0o644,
    )
    only = ("-o", "Dir::Etc::sourcelist=sources.list.d/offers.list", "-o", "Dir::Etc::sourceparts=-")
    gpu01.exec("apt-get", "update", "-q", *only)
    shown = gpu01.exec("apt-cache", "policy", *only, *names, "nvidia-container-toolkit")
    candidates = [line.split()[1] for line in shown.splitlines() if "Candidate:" in line]
    assert candidates == ["580.95.05-1"] * len(names) + ["1.17.8-1"]
    gpu01.write({"opt/offers/Packages": "".join(offers[2::3][:1]).encode()}, mode=0o644)
    gpu01.exec("apt-get", "update", "-q", *only)
    assert "Candidate: (none)" in gpu01.exec("apt-cache", "policy", *only, names[0])
