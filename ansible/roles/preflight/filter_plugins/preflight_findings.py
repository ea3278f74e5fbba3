"""What is wrong with the machines and the inventory, judged from what was seen of them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_GIB_KILOBYTES = 1024 * 1024
_NOT_FILLED_IN = ("", "hub.example.org")


@dataclass(frozen=True)
class Finding:
    """Something that is missing: on which machine, what, and what to do about it."""

    machine: str
    what: str
    remedy: str
    is_warning: bool = False


@dataclass(frozen=True)
class Look:
    """What the script said of a machine; empty where it could not run.

    Attributes
    ----------
    values
        ``WHAT`` -> ``VALUE``.
    listening
        Port -> program, which is empty for the kernel's own.
    """

    values: Mapping[str, str]
    listening: Mapping[int, str]

    @classmethod
    def of(cls, lines: Iterable[str]) -> Look:
        """Read the script's lines."""
        values: dict[str, str] = {}
        listening: dict[int, str] = {}
        for line in lines:
            what, _, value = line.strip().partition(" ")
            if what == "listens":
                port, _, program = value.partition(" ")
                listening[int(port)] = program
            else:
                values[what] = value
        return cls(values, listening)

    def number(self, what: str) -> int:
        """Return a value that is a number; 0 where it is not known."""
        text = self.values.get(what, "")
        return int(text) if text.isdigit() else 0


def preflight_findings(machines: Mapping[str, Mapping[str, Any]], rules: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is wrong on each machine.

    Parameters
    ----------
    machines
        Name -> ``result`` of the script's task, and ``given``, what the inventory says of the machine.
    rules
        The role's variables, without their prefix.

    Returns
    -------
    list of dict
        ``machine``, ``what``, ``remedy``, ``is_warning``.
    """
    found = [
        finding
        for name, seen in machines.items()
        for finding in _of_machine(name, seen["result"], seen["given"], rules)
    ]
    return [vars(finding) for finding in found]


def _of_machine(
    name: str, result: Mapping[str, Any], given: Mapping[str, Any], rules: Mapping[str, Any]
) -> Iterator[Finding]:
    said = " ".join(str(result.get("msg", "")).split())
    if result.get("unreachable"):
        remedy = "Is it switched on, is ansible_host right, and does `ssh` with your key let you in?"
        said = said.removeprefix("Task failed: ").removeprefix("Failed to connect to the host via ssh: ")
        yield Finding(name, f"is not reached by ssh: {said}", remedy)
        return
    look = Look.of(result.get("stdout_lines", []))
    if look.values.get("user") != "0":
        said = said or " ".join(str(result.get("stderr", "")).split())
        remedy = "Log in as root, or as somebody whose sudo works (--ask-become-pass, or ansible_become_password)."
        yield Finding(name, f"Ansible is not root there: {said}", remedy)
        return
    yield from _system(name, look, given, rules)
    yield from _ports(name, look, given, rules["ports"])
    if given["is_server"] and not given["simulated_gpus"]:
        yield from _cards(name, look, rules["driver_branch"])


def _system(name: str, look: Look, given: Mapping[str, Any], rules: Mapping[str, Any]) -> Iterator[Finding]:
    if "python" not in look.values or "python_apt" not in look.values:
        yield Finding(name, "has no Python that Ansible can use", "apt-get install python3 python3-apt")
    system = look.values.get("system", "")
    if system not in rules["systems"]:
        known = ", ".join(rules["systems"])
        yield Finding(name, f"runs {system or 'an unknown system'}", f"These are supported: {known}.")
    if (processor := look.values.get("processor", "")) != "x86_64":
        yield Finding(name, f"has the processor {processor}", "Images and drivers are made for x86_64.")
    kinds = [kind for kind in ("hub", "server") if given[f"is_{kind}"]]
    memory, disk = look.number("memory_kilobytes"), look.number("free_kilobytes")
    for kind in kinds:
        # A machine never shows all that is built in.
        if memory < (wanted := rules["memory_gigabytes"][kind]) * _GIB_KILOBYTES * 0.93:
            yield Finding(name, f"has {_gigabytes(memory)} GB of memory", f"As a {kind} it needs {wanted} GB.")
    limits = rules["disk_gigabytes"]
    needed = limits["later"] if "ours" in look.values else sum(limits[kind] for kind in kinds)
    if disk < needed * _GIB_KILOBYTES:
        remedy = f"{needed} GB are needed there: free some, or mount a larger disk at /var/lib/docker."
        yield Finding(name, f"has {_gigabytes(disk)} GB free below /var/lib", remedy)
    apart = look.number("clock") - look.number("asked")
    if abs(apart) > rules["clock_seconds"]:
        where = "ahead of" if apart > 0 else "behind"
        remedy = "Set it (`date --set`), or let it follow a time server (base_time_servers)."
        yield Finding(name, f"its clock is {abs(apart)} s {where} the clock here", remedy)
    if look.values.get("control_groups") == "tmpfs":
        remedy = "It works; a machine installed anew has version 2."
        yield Finding(name, "has control groups of version 1", remedy, is_warning=True)


def _gigabytes(kilobytes: int) -> str:
    return f"{kilobytes / _GIB_KILOBYTES:.1f}"


def _ports(
    name: str, look: Look, given: Mapping[str, Any], ports: Mapping[str, Mapping[Any, list[str]]]
) -> Iterator[Finding]:
    wanted = dict(ports["all"])
    for kind in ("hub", "server"):
        wanted |= ports[kind] if given[f"is_{kind}"] else {}
    for port, programs in sorted((int(port), programs) for port, programs in wanted.items()):
        program = look.listening.get(port)
        if program is None or program.startswith(tuple(programs)):
            continue
        remedy = f"We need it for {programs[0]}: stop or move that program."
        # On a machine of ours it may be ours under another name.
        ours = "ours" in look.values
        yield Finding(name, f"port {port} is taken by {program or 'the kernel'}", remedy, is_warning=ours)


def _cards(name: str, look: Look, branch: int) -> Iterator[Finding]:
    if not look.number("cards"):
        remedy = "Is it built in, and does `lspci` show it? For a trial without cards: fleet_simulated_gpus."
        yield Finding(name, "has no NVIDIA card", remedy)
    if "driver_by_hand" in look.values:
        remedy = "Remove it with `nvidia-uninstall`: packages and it overwrite each other. Or set nvidia_driver: false."
        yield Finding(name, "its driver was installed by NVIDIA's own installer", remedy)
    driver = look.values.get("driver", "")
    if driver and not driver.startswith(f"{branch}."):
        remedy = f"Branch {branch} will be installed; it runs after a restart of the machine."
        yield Finding(name, f"runs the driver {driver}", remedy, is_warning=True)


# -- the inventory, and what was filled in ------------------------------------------------------------------------


def preflight_inventory(
    given: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    """Return what is wrong with the inventory: groups, and addresses of all machines."""
    return [vars(finding) for finding in (*_groups(groups), *_addresses(given))]


def _groups(groups: Mapping[str, list[str]]) -> Iterator[Finding]:
    if not groups.get("gpu_servers"):
        yield Finding("the inventory", "has no machine in the group gpu_servers", "Nobody could get a GPU; add one.")
    if len(groups.get("homes_server", [])) != 1:
        remedy = "Students' homes lie on one machine: name one, perhaps the hub."
        yield Finding("the inventory", "must have exactly one machine in the group homes_server", remedy)


def _addresses(given: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    for key, variable in (("address", "ansible_host"), ("wireguard", "wireguard_address")):
        owners: dict[str, list[str]] = {}
        for name, values in given.items():
            address = values[key]
            if address:
                owners.setdefault(address, []).append(name)
            if (address or key == "address") and not _is_address(address):
                remedy = "Certificates and firewall rules are made for IP addresses; names will not do."
                yield Finding(name, f"{variable} is {address!r}, which is no IP address", remedy)
        for address, names in owners.items():
            if len(names) > 1:
                yield Finding(", ".join(names), f"have the same {variable}, {address}", "Each needs its own.")
    without = [name for name, values in given.items() if not values["wireguard"]]
    if 0 < len(without) < len(given):
        remedy = "Give one to all machines or to none: else those would not reach the others."
        yield Finding(", ".join(without), "have no wireguard_address, while others have", remedy)


def _is_address(text: str) -> bool:
    try:
        return not ip_address(text).is_unspecified
    except ValueError:
        return False


def preflight_settings(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is wrong with what was filled in.

    Parameters
    ----------
    settings
        ``domain``, ``addresses`` (where it may lead), ``trial``, ``login`` (its kind, or empty), ``backup`` (its
        place, or empty).
    """
    return [vars(finding) for finding in _settings(settings)]


def _settings(settings: Mapping[str, Any]) -> Iterator[Finding]:
    where, trial = "the settings", bool(settings["trial"])
    if settings["domain"] in _NOT_FILLED_IN:
        yield Finding(where, "fleet_domain is not filled in", "The name under which people reach the hub.")
    else:
        yield from _domain(settings["domain"], settings["addresses"], trial)
    if not trial and settings["login"] in ("", "demo"):
        remedy = "Set hub_login as its README says. One password for everybody is for a trial (fleet_trial)."
        yield Finding(where, "hub_login does not say how people prove who they are", remedy)
    if not settings["backup"]:
        remedy = "Set backup_repository: without one, a broken disk takes all homes with it."
        yield Finding(where, "there is no backup", remedy, is_warning=True)


def _domain(domain: str, addresses: list[str], trial: bool) -> Iterator[Finding]:
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(domain, 443, proto=socket.IPPROTO_TCP)})
    except OSError:
        remedy = f"Let its DNS entry lead to {addresses[0]}."
        yield Finding("the settings", f"nobody knows the name {domain}", remedy, is_warning=trial)
        return
    if not set(found) & set(addresses):
        remedy = f"It must lead to {addresses[0]}; or name the router that passes it on in preflight_domain_addresses."
        yield Finding("the settings", f"{domain} leads to {', '.join(found)}", remedy, is_warning=trial)


# -- showing it ----------------------------------------------------------------------------------------------------


def preflight_list(findings: Iterable[Mapping[str, Any]], *, warnings: bool) -> list[str]:
    """Return problems, or warnings, as lines for a person; machines with the same one share a line."""
    machines: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if finding["is_warning"] == warnings:
            machines.setdefault((finding["what"], finding["remedy"]), []).append(finding["machine"])
    return [f"{', '.join(names)}: {what}. -> {remedy}" for (what, remedy), names in machines.items()]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {
            "preflight_findings": preflight_findings,
            "preflight_inventory": preflight_inventory,
            "preflight_list": preflight_list,
            "preflight_settings": preflight_settings,
        }
