"""A process that takes and gives back GPUs in a race with others, and notes when two hold one at the same time.

Arguments: database address, folder for notes, rounds, cards. Starts at a line on its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ledger import Ledger
from parts import lowest_free

from idl_hub.db import Database
from idl_hub.gpus.leases import Lease, Phase, new_lease_id


async def race(url: str, notes: Path, rounds: int, cards: int) -> None:
    """Hold a GPU for a moment, many times."""
    database = Database(url)
    leases = Ledger(database)
    print(leases.read_hub_id(), flush=True)
    sys.stdin.readline()
    won = 0
    while won < rounds:
        got = await leases.acquire(new_lease_id(), "racer", "", lowest_free(1, cards))
        if not isinstance(got, Lease):
            continue
        won += 1
        held = notes / f"{got.gpus[0].uuid}.held"
        held.touch(exist_ok=False)  # fails when another process holds the same GPU
        await leases.advance(got.id, Phase.RUNNING)
        held.unlink()
        await leases.end(got.id, "round over")
    database.close()


if __name__ == "__main__":
    asyncio.run(race(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
