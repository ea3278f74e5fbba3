"""Looks at what lies in files: certificates and secrets, homes and their copies, and what timers left."""

from __future__ import annotations

import stat
import time
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from idl_hub.doctor import certificates
from idl_hub.doctor.look import DEPLOY
from idl_hub.homes.commands import check
from idl_hub.homes.patience import Silent
from idl_hub.homes.snapshots import Snapshots
from idl_hub.homes.snapshots_folder import SnapshotsError
from idl_hub.images.registry import Registry, RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from idl_hub.doctor.look import Look
    from idl_hub.doctor.result import Found
    from idl_hub.images.offers import Image
    from idl_hub.settings import Settings

_LATE_SECONDS = {"idlhub_backup_last_success_timestamp_seconds": 26 * 3600}
"""Metric of a timer -> after which time it should have done its work again: once a day, with some patience."""
_COPIES_LATE_SECONDS = 3 * 3600


# -- certificates and secrets -------------------------------------------------------------------------------


def certificate_files(settings: Settings) -> dict[Path, str]:
    """Return the files of certificates that the settings name, each with whose it is."""
    files = {}
    for server in settings.servers:
        if server.engine and server.engine.ca_file:
            files[server.engine.ca_file] = "the fleet's authority"
        if server.engine and server.engine.certificate_file:
            files[server.engine.certificate_file] = "the hub, as engines know it"
        if server.agent and server.agent.ca_file:
            files[server.agent.ca_file] = "the fleet's authority"
    return files


def secret_files(settings: Settings) -> Iterator[Path]:
    """Yield the files that nobody but their owner may read."""
    state = settings.hub.state_directory
    yield state / "cookie_secret"
    if settings.login.demo_password_file:
        yield settings.login.demo_password_file
    yield from sorted(state.glob("*-token"))
    for server in settings.servers:
        if server.engine and server.engine.key_file:
            yield server.engine.key_file
        if server.agent:
            yield server.agent.token_file


def look_at_files(settings: Settings, found: Found) -> None:
    """Look at certificates and secrets; blocks."""
    for path, whose in certificate_files(settings).items():
        try:
            certificates.judge(found, whose, certificates.in_file(path), DEPLOY)
        except (OSError, ValueError) as error:
            found.fail(f"{path} cannot be used: {error}", DEPLOY, "certificate-expires.md")
    count = 0
    for path in dict.fromkeys(secret_files(settings)):
        try:
            mode, folder_mode = path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777
        except FileNotFoundError:
            if path.suffix in (".token", ".pem"):
                found.fail(f"{path} is missing: the hub cannot reach that server", DEPLOY)
            continue
        count += 1
        if mode & 0o077 and folder_mode & 0o011:
            found.fail(
                f"{path} can be read by others than its owner (mode {mode:o}): who reads this secret can use it",
                f"`chmod 600 {path}`; if strangers use this machine, `ansible-playbook rotate-secrets.yml` as well",
            )
    folder = stat.S_IMODE(settings.hub.state_directory.stat().st_mode)
    if folder & 0o077:
        found.fail(
            f"{settings.hub.state_directory} is open to others (mode {folder:o})",
            f"`chmod 700 {settings.hub.state_directory}`",
        )
    found.facts.append(f"{count} secrets that only their owner reads")


# -- homes ----------------------------------------------------------------------------------------------------


async def look_at_homes(look: Look, found: Found) -> None:
    """Look whether homes can be made and written, and how much room there is."""
    homes, directory = look.settings.homes, look.settings.homes.directory
    if directory is None:
        found.facts.append("Docker volumes")
        return
    try:
        findings = await look.blocking(lambda: list(check(homes, directory)))
    except Silent:
        found.fail(f"{directory} gives no answer: nobody can start", "look at the file server", "homes-not-mounted.md")
        return
    for finding in findings:
        if finding.fine:
            found.facts.append(finding.text)
        else:
            found.fail(f"{finding.text}: nobody can start, or soon", "`idl-hub homes check`", "homes-not-mounted.md")


async def look_at_snapshots(look: Look, found: Found) -> None:
    """Look whether all homes were copied lately."""
    if look.settings.homes.snapshots is None:
        found.facts.append("none are made")
        return
    advice = "`systemctl status idl-hub-snapshots.timer`, `journalctl -u idl-hub-snapshots`; `idl-hub snapshots take`"
    try:
        at = await look.blocking(Snapshots(look.settings).checked_at)
    except (Silent, SnapshotsError) as error:
        found.fail(f"their folder does not answer: {error}", advice, "earlier-versions-late.md")
        return
    if at is None:
        found.warn("homes were never copied as a whole", advice, "earlier-versions-late.md")
        return
    age_seconds = time.time() - at.timestamp()
    if age_seconds > _COPIES_LATE_SECONDS:
        found.fail(
            f"homes were last copied {age_seconds / 3600:.0f} hours ago: what is deleted now cannot be brought back",
            advice,
            "earlier-versions-late.md",
        )
    else:
        found.facts.append(f"all copied {age_seconds / 60:.0f} minutes ago")


# -- timers ---------------------------------------------------------------------------------------------------


def look_at_backups(textfiles: Path, now: float, found: Found) -> None:
    """Look when backups last succeeded, by what their timer left for Prometheus; blocks."""
    told = dict(_told(textfiles))
    for metric, late_seconds in _LATE_SECONDS.items():
        advice = (
            "`systemctl status idl-hub-backup.timer`, `journalctl -u idl-hub-backup`; `ansible-playbook backup.yml`"
        )
        at = told.get(metric)
        if at is None:
            found.fail(
                f"no backup was ever made, as far as {textfiles} tells: a lost disk would be final",
                advice,
                "backup-too-old.md",
            )
        elif now - at > late_seconds:
            found.fail(f"the last backup is {(now - at) / 3600:.0f} hours old", advice, "backup-too-old.md")
        else:
            found.facts.append(f"the last one {(now - at) / 3600:.0f} hours ago")


def _told(textfiles: Path) -> Iterator[tuple[str, float]]:
    """Yield each metric with its least value: the one that is worst off speaks."""
    least: dict[str, float] = {}
    for file in sorted(textfiles.glob("*.prom")):
        try:
            families = list(text_string_to_metric_families(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue  # somebody else's, or half written
        for sample in (sample for family in families for sample in family.samples):
            least[sample.name] = min(sample.value, least.get(sample.name, sample.value))
    yield from least.items()


# -- the registry -----------------------------------------------------------------------------------------------


async def look_at_registry(look: Look, image: Image | None, found: Found) -> None:
    """Look whether the registry answers and has the image that is offered."""
    address = look.settings.images.registry
    if address is None:
        found.facts.append("none is used")
        return
    await _certificate(address, found)
    if image is None:
        found.warn(
            f"no version of {look.settings.spawner.image} was offered yet: servers take what lies there under its name",
            "`idl-hub images publish`, then `idl-hub images rollout`",
            "registry-gone.md",
        )
        return
    path = look.settings.spawner.image.partition(":")[0]
    try:
        await look.blocking(lambda: Registry(address).layers(path, image.digest))
    except (RegistryError, Silent) as error:
        found.fail(
            f"{error} A server that lacks the image cannot fetch it",
            "on the hub's machine: `systemctl status docker-registry`, `df -h /var/lib/docker-registry`",
            "registry-gone.md",
        )
        return
    found.facts.append(f"{image.short} of {image.name} is there")


async def _certificate(address: str, found: Found) -> None:
    host, _, port = address.rpartition(":")
    try:
        valid = await certificates.shown_at(host, int(port))
    except (OSError, ValueError):
        return  # it speaks without TLS; or else the question that follows says why
    certificates.judge(found, f"the registry at {address}", valid, DEPLOY)
