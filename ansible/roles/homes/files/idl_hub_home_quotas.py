#!/usr/bin/python3
"""Gives every home a project quota of its own: ``idl-hub-home-quotas FOLDER LIMIT``, with a limit such as 5G.

The file system then keeps each student within the limit. Homes that have a project keep it and get the limit as it is
now. Run it as root on the machine that has the disk; it needs project quotas switched on there.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import subprocess
import sys
from contextlib import suppress

_FIRST_PROJECT = 10_001
_GET, _SET = 0x801C581F, 0x401C5820
"""FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR of linux/fs.h."""
_INHERIT = 0x200
"""What is made in a folder is of the folder's project: FS_XFLAG_PROJINHERIT."""
_ATTRIBUTES = struct.Struct("=IIIII8s")
_UNITS = {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}


def project_of(descriptor: int) -> int:
    """Return the number of the project that a file or folder belongs to; 0: to none."""
    return int(_attributes(descriptor)[3])


def assign(descriptor: int, project: int, *, folder: bool) -> None:
    """Put a file or folder into a project."""
    flags, extent, extents, _, copied, rest = _attributes(descriptor)
    flags |= _INHERIT if folder else 0
    fcntl.ioctl(descriptor, _SET, _ATTRIBUTES.pack(flags, extent, extents, project, copied, rest))


def _attributes(descriptor: int) -> tuple[int, int, int, int, int, bytes]:
    read: tuple[int, int, int, int, int, bytes]
    read = _ATTRIBUTES.unpack(fcntl.ioctl(descriptor, _GET, bytes(_ATTRIBUTES.size)))
    return read


def assign_all(home: int, project: int) -> None:
    """Put a home with all that is in it into a project. Its student may be at work in it: links are not followed."""
    for _, _, names, folder in os.fwalk(".", dir_fd=home, follow_symlinks=False):
        assign(folder, project, folder=True)
        for name in names:
            with suppress(OSError):  # gone meanwhile, or a link, a pipe, a socket, which take no space
                if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    continue
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                try:
                    assign(file, project, folder=False)
                finally:
                    os.close(file)


def kibibytes(limit: str) -> int:
    """Return a size such as 5G in KiB."""
    return int(limit[:-1]) * _UNITS[limit[-1]]


def give(folder: str, limit: str, *, only_new: bool) -> int:
    """Give homes their limit, and a project to those that have none; return how many had none."""
    found = ["findmnt", "--noheadings", "--output", "TARGET", "--target", folder]
    disk = subprocess.run(found, check=True, capture_output=True, text=True).stdout.strip()
    homes: dict[str, int] = {}
    try:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False) and entry.name != "lost+found":
                homes[entry.name] = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        projects = {name: project_of(home) for name, home in homes.items()}
        following = max([_FIRST_PROJECT - 1, *projects.values()]) + 1
        new = sorted(name for name, project in projects.items() if not project)
        projects |= {name: project for project, name in enumerate(new, following)}
        for name in new if only_new else sorted(homes):
            # The limit comes first: a student who writes meanwhile is held by it.
            command = ["setquota", "-P", str(projects[name]), "0", str(kibibytes(limit)), "0", "0", disk]
            subprocess.run(command, check=True)
            if name in new:
                assign_all(homes[name], projects[name])
                print(f"{name}: project {projects[name]}, {limit}")
        return len(new)
    finally:
        for home in homes.values():
            os.close(home)


def main() -> int:
    """Look at every home, and again for those that were made meanwhile."""
    folder, limit = sys.argv[1:]
    if not os.path.isfile(f"{folder}/.idl_hub-homes"):  # noqa: PTH113
        print(f"{folder}/.idl_hub-homes is missing: the homes are not mounted. Nothing was done.", file=sys.stderr)
        return 1
    new = give(folder, limit, only_new=False)
    while new:
        new = give(folder, limit, only_new=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
