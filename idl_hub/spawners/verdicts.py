"""Which leases of a host must end, given what runs there; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from idl_hub.gpus.leases import Lease, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from idl_hub.spawners.host import Unit


@dataclass(frozen=True, slots=True)
class Verdict:
    """A lease that must end, and why."""

    lease_id: str
    why: str


def verdicts(
    leases: Iterable[Lease], units: Iterable[Unit], in_hand: frozenset[str], claimed: frozenset[str] | None
) -> list[Verdict]:
    """Say which leases of one host must end, given what runs there.

    Parameters
    ----------
    leases
        The host's live leases, read before `units` was listed.
    in_hand
        Leases that a start, stop or clean-up of this hub is working on; left alone.
    claimed
        Leases that JupyterHub knows as running servers; None while it is still starting and cannot say.
    """
    running = {unit.lease_id for unit in units if unit.running}
    endings = {unit.lease_id: unit.ending for unit in units if not unit.running}
    found = []
    for lease in leases:
        if lease.id in in_hand:
            continue
        if lease.phase in (Phase.RESERVED, Phase.CREATING):
            found.append(Verdict(lease.id, "its start was cut off"))
        elif lease.phase in (Phase.STOPPING, Phase.LOST):
            found.append(Verdict(lease.id, "its stop was cut off"))
        elif lease.id not in running:
            found.append(Verdict(lease.id, endings.get(lease.id) or "its container is gone"))
        elif claimed is not None and lease.id not in claimed:
            found.append(Verdict(lease.id, "its start was cut off before the hub knew of it"))
    return found
