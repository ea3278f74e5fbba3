"""Which notebooks hold the GPU's memory: from processes to the kernels they belong to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idl_hub.gpus.processes import HostProcesses
from idl_hub.lab.session import Use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from idl_hub.gpus.reading import ServerReading

COMPUTE_DEVICE = "/dev/nvidia-uvm"
"""Open in every process that computes on a GPU, and in none that only looks (nvidia-smi, nvitop)."""
_PROC = Path("/proc")
_LONGEST_CHAIN = 50


@dataclass(frozen=True, slots=True)
class Kernel:
    """A running kernel."""

    id: str
    pid: int
    path: str = ""
    """The notebook it belongs to; empty when it belongs to none."""
    execution_state: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """A kernel, or another process, and the GPU memory it holds."""

    name: str
    path: str
    kernel_id: str | None
    """None: no kernel; this server cannot end it."""
    busy: bool
    memory_used_bytes: int | None


def find_uses(told_by_hub: Sequence[Use] | None, reading: ServerReading | None) -> tuple[Use, ...]:
    """Return the processes of this server that are on its GPU, from the best source there is.

    NVML gives the host's PIDs, which mean nothing in a container: the agent on the host translates them.
    Where nobody did, and NVML's PIDs are not those of this server, the processes that have the GPU open count.
    """
    if told_by_hub is not None:
        return tuple(told_by_hub)
    if reading is not None and (reading.simulated or HostProcesses().are_the_hosts()):
        processes = [process for gpu in reading.gpus for process in gpu.processes or ()]
        return tuple(
            Use(process.pid, process.memory_used_bytes) for process in processes if (_PROC / str(process.pid)).exists()
        )
    return tuple(Use(pid) for pid in processes_with_open(COMPUTE_DEVICE))


def processes_with_open(device: str, proc: Path = _PROC) -> list[int]:
    """Return the processes of this user, but for this one, that have a file open."""
    pids = [int(folder.name) for folder in proc.iterdir() if folder.name.isdigit()]
    return sorted(pid for pid in pids if pid != os.getpid() and _has_open(proc / str(pid) / "fd", device))


def _has_open(descriptors: Path, device: str) -> bool:
    try:
        return any(str(descriptor.readlink()) == device for descriptor in descriptors.iterdir())
    except OSError:  # ended meanwhile, or somebody else's
        return False


def parent(pid: int) -> int | None:
    """Return a process's parent; None when it has gone."""
    try:
        status = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name before it, in brackets, may hold anything.
    return int(status.rpartition(")")[2].split()[1])


def command(pid: int) -> str:
    """Return the program that a process runs."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return Path(words[0].decode(errors="replace")).name


def hold(
    uses: Iterable[Use],
    kernels: Iterable[Kernel],
    *,
    parent: Callable[[int], int | None] = parent,
    command: Callable[[int], str] = command,
) -> tuple[Holder, ...]:
    """Return who holds memory, the biggest first; what a kernel's children hold is the kernel's."""
    by_pid = {kernel.pid: kernel for kernel in kernels}
    held: dict[Kernel | int, list[Use]] = {}
    for use in uses:
        held.setdefault(_kernel_of(use.pid, by_pid, parent) or use.pid, []).append(use)
    holders = [_holder(owner, found, command) for owner, found in held.items()]
    return tuple(sorted(holders, key=lambda holder: (-(holder.memory_used_bytes or 0), holder.name)))


def _kernel_of(pid: int, kernels: dict[int, Kernel], parent: Callable[[int], int | None]) -> Kernel | None:
    current: int | None = pid
    for _ in range(_LONGEST_CHAIN):
        if not current or current in kernels:
            break
        current = parent(current)
    return kernels.get(current or 0)


def _holder(owner: Kernel | int, uses: Sequence[Use], command: Callable[[int], str]) -> Holder:
    known = [use.memory_used_bytes for use in uses if use.memory_used_bytes is not None]
    memory = sum(known) if known else None
    if isinstance(owner, Kernel):
        name = Path(owner.path).name or "a console"
        return Holder(name, owner.path, owner.id, owner.execution_state == "busy", memory)
    name = f"{command(owner) or 'a program'} (process {owner})"
    return Holder(name, "", None, busy=False, memory_used_bytes=memory)


async def running_kernels(kernel_manager: Any, session_manager: Any) -> tuple[Kernel, ...]:
    """Return this server's kernels that run on this machine, with their notebooks."""
    paths = {}
    for session in await session_manager.list_sessions():
        paths[session["kernel"]["id"]] = session["path"] if session["type"] == "notebook" else ""
    kernels = []
    for kernel_id in kernel_manager.list_kernel_ids():
        kernel = kernel_manager.get_kernel(kernel_id)
        pid = getattr(kernel.provisioner, "pid", None)
        if pid is not None:
            state = getattr(kernel, "execution_state", "")
            kernels.append(Kernel(kernel_id, pid, paths.get(kernel_id, ""), state))
    return tuple(kernels)
