"""The ledger with a way to reserve that needs no line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from idl_hub.gpus.leases import Lease, Leases, holders_in, reserve_in
from idl_hub.gpus.placement import Choice, NoGPU

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session


class Ledger(Leases):
    """What `Line.acquire` does where nobody waits, for tests of everything else."""

    async def acquire(
        self,
        lease_id: str,
        user: str,
        server_name: str,
        choose: Callable[[Mapping[str, str]], Choice | NoGPU],
    ) -> Lease | NoGPU:
        """Reserve what `choose` picks from GPU UUID -> holder, in one transaction, or return why there is nothing."""

        def reserve(session: Session) -> Lease | NoGPU:
            choice = choose(holders_in(session))
            if isinstance(choice, NoGPU):
                return choice
            return reserve_in(session, lease_id, user, server_name, choice, kind="session", now=self._clock())

        return await self._database.run_again_on_conflict(reserve)
