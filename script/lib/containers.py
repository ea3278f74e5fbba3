"""What students' containers need of the engine: a network whose members cannot see each other, and the image."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from script.lib.commands import CommandFailedError, ask, explain, run
from script.lib.console import SetupError, Step

if TYPE_CHECKING:
    from script.lib.places import Places

NETWORK = "idlhub"
IMAGE = "idl-hub/student:latest"
_LABEL = "idlhub.network"
_ICC = "com.docker.network.bridge.enable_icc"
_FREE_BYTES_NEEDED = 8 * 10**9


def ensure_network(step: Step, name: str = NETWORK) -> str:
    """Make the students' network unless it is there; return its gateway, where containers reach the hub.

    Raises
    ------
    SetupError
        When a network of this name is not ours, lets containers talk to each other, or cannot be made.
    """
    found = _inspect(name)
    if found is None:
        created = ask(
            [
                "docker",
                "network",
                "create",
                "--driver",
                "bridge",
                "--label",
                f"{_LABEL}=1",
                "--opt",
                f"{_ICC}=false",
                name,
            ]
        )
        found = _inspect(name)
        if found is None:
            raise SetupError(
                f"The Docker network {name} could not be made.",
                "Unused networks may have taken all addresses: docker network prune. Then run this again.",
                created.stderr.strip() if created is not None else "no answer from the engine",
            )
    if (found.get("Labels") or {}).get(_LABEL) != "1" or (found.get("Options") or {}).get(_ICC) != "false":
        raise SetupError(
            f"There is a Docker network {name} that script/server did not make: in it containers may see each other.",
            f"Remove or rename it (docker network rm {name}), then run this again.",
        )
    gateway = gateway_of(found)
    step.note = f"{name}, the hub answers containers at {gateway}"
    return gateway


def _inspect(name: str) -> dict[str, Any] | None:
    told = ask(["docker", "network", "inspect", name])
    if told is None or told.returncode != 0:
        return None
    networks: list[dict[str, Any]] = json.loads(told.stdout)
    return networks[0] if networks else None


def gateway_of(network: dict[str, Any]) -> str:
    """Return the IPv4 gateway of an inspected network; the first address of its subnet where none is said."""
    for pool in network["IPAM"]["Config"]:
        subnet = ipaddress.ip_network(pool["Subnet"])
        if subnet.version == 4:
            return str(pool.get("Gateway") or next(subnet.hosts())).split("/")[0]
    raise SetupError(
        f"The Docker network {network['Name']} has no IPv4 addresses.",
        f"Remove it (docker network rm {network['Name']}) and run this again.",
    )


def ensure_image(step: Step, places: Places) -> None:
    """Build the student image; script/image itself does nothing when no input changed."""
    _check_space(places)
    step.note = _build(step, places, "image", "student image")


def ensure_service_images(step: Step, places: Places) -> None:
    """Build the images of agent and hub, as the roles do; nothing is done when no input changed."""
    _build(step, places, "agent-image", "agent's image")
    step.note = _build(step, places, "hub-image", "hub's image")


def _build(step: Step, places: Places, script: str, what: str) -> str:
    log = places.setup_logs / f"{script}.log"
    try:
        last = run(step, [str(places.root / "script" / script)], log, deadline_seconds=3600, cwd=places.root)
    except CommandFailedError as failure:
        raise explain(
            f"The {what} could not be built", failure, log, f"Try script/{script} alone to see all of it."
        ) from failure
    return (last.splitlines() or ["built"])[-1].strip()[:60]


def ensure_server_image(step: Step, places: Places) -> None:
    """Build the image of the tests' servers; nothing is done when no input changed."""
    log = places.setup_logs / "server-image.log"
    python = str(places.venv / "bin" / "python")
    code = "import sys; sys.path[:0] = ['tests', '.']; import cluster_image; cluster_image.server_image()"
    try:
        run(step, [python, "-c", code], log, deadline_seconds=1800, cwd=places.root)
    except CommandFailedError as failure:
        raise explain(
            "The image of the tests' servers could not be built", failure, log, "Its inputs are in tests/server_image."
        ) from failure
    step.note = "up to date"


def _check_space(places: Places) -> None:
    """Refuse a first build that would fill the disk."""
    images = ask(["docker", "image", "inspect", IMAGE])
    if images is not None and images.returncode == 0:
        return
    told = ask(["docker", "info", "--format", "{{.DockerRootDir}}"])
    folder = Path(told.stdout.strip()) if told is not None and told.stdout.strip() else places.root
    while not _is_visible(folder):
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES_NEEDED:
        raise SetupError(
            f"Only {free / 1e9:.1f} GB are free on the disk of {folder}, where Docker keeps its images; "
            f"the student image needs about {_FREE_BYTES_NEEDED / 1e9:.0f} GB to build.",
            "Free some space (docker system df shows what Docker uses) and run this again.",
        )


def _is_visible(folder: Path) -> bool:
    try:
        return os.path.exists(folder) or folder == folder.parent  # noqa: PTH110 - no error for a closed folder
    except OSError:
        return False
