"""Uses an NFS export as a program, through libnfs: what the kernel's client would do, without the kernel.

``nfs_client.py SERVER EXPORT UID`` with a JSON list of steps on stdin; prints for each what went wrong, or null.
A step is ``["write", path, text]``, ``["read", path, text]`` (which must be in it), ``["mkdir", path]``,
``["chown", path, uid, gid]``. The first answer is the mount's.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

_TIMEOUT_MILLISECONDS = 10_000
_VERSION = 4

nfs = ctypes.CDLL("libnfs.so.13")
nfs.nfs_init_context.restype = ctypes.c_void_p
nfs.nfs_get_error.restype = ctypes.c_char_p
nfs.nfs_write.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p]
nfs.nfs_read.argtypes = nfs.nfs_write.argtypes


class RefusedError(Exception):
    """What the server answered."""


class Client:
    """One mount, with the rights of one user."""

    def __init__(self, uid: int) -> None:
        self._context = ctypes.c_void_p(nfs.nfs_init_context())
        nfs.nfs_set_version(self._context, _VERSION)
        nfs.nfs_set_uid(self._context, uid)
        nfs.nfs_set_gid(self._context, uid)
        nfs.nfs_set_timeout(self._context, _TIMEOUT_MILLISECONDS)

    def call(self, name: str, *arguments: Any) -> int:
        """Call a function of libnfs."""
        given = [argument.encode() if isinstance(argument, str) else argument for argument in arguments]
        status = int(getattr(nfs, f"nfs_{name}")(self._context, *given))
        if status < 0:
            raise RefusedError((nfs.nfs_get_error(self._context) or b"").decode() or str(status))
        return status

    def _open(self, path: str, flags: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self.call("open2", path, flags, 0o600, ctypes.byref(handle))
        return handle

    def write(self, path: str, text: str) -> None:
        """Make a file."""
        handle = self._open(path, os.O_WRONLY | os.O_CREAT)
        self.call("write", handle, len(text), text)
        self.call("close", handle)

    def read(self, path: str, text: str) -> None:
        """Find this text in a file."""
        handle = self._open(path, os.O_RDONLY)
        buffer = ctypes.create_string_buffer(4096)
        length = self.call("read", handle, 4096, buffer)
        self.call("close", handle)
        if buffer.raw[:length].decode() != text:
            raise RefusedError(f"it holds {buffer.raw[:length]!r}")


def main() -> None:
    """Do what is asked for."""
    server, export, uid = sys.argv[1:]
    client = Client(int(uid))
    answers: list[str | None] = []
    for name, *arguments in [["mount", server, export], *json.load(sys.stdin)]:
        try:
            getattr(client, name, lambda *given, name=name: client.call(name, *given))(*arguments)
        except RefusedError as error:
            answers.append(str(error))
            if name == "mount":
                break
        else:
            answers.append(None)
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
