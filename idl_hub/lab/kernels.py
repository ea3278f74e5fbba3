"""Kernels that end before their server when memory runs out, and remember that they did.

Loaded at every start of a student's server.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from jupyter_server.services.kernels.kernelmanager import ServerKernelManager

from idl_hub.lab import memory

KILLED_FIRST = ("/usr/bin/choom", "--adjust=500", "--")
"""Runs a program so that the system ends it before any other that is not run so. Needs no rights."""


class Kernel(ServerKernelManager):
    """One kernel of this server, over all its restarts."""

    killed_at: float | None = None
    """When it was last found ended because memory had run out: seconds since 1970."""
    _kills_before = 0

    async def _async_launch_kernel(self, kernel_cmd: list[str], **more: Any) -> None:
        self._kills_before = _kills()
        await super()._async_launch_kernel([*KILLED_FIRST, *kernel_cmd], **more)

    async def restart_kernel(self, *args: Any, **more: Any) -> None:  # type: ignore[override] # as in its parent
        """Start it anew; a kernel that had ended by itself comes here, too, within 3 s."""
        if self.provisioner is not None:
            ended = await self.provisioner.poll()
            if ended == -signal.SIGKILL and _kills() > self._kills_before:
                self.killed_at = time.time()
        await super().restart_kernel(*args, **more)


def _kills() -> int:
    found = memory.read()
    return found.kills if found is not None else 0
