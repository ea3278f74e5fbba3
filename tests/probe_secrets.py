"""Looks for secrets wherever this process may read: ``probe_secrets.py PLACE...``, with the secrets as JSON on stdin.

Prints as JSON: secret's name -> files that hold it; and how many files and processes were looked at.
"""

import json
import os
import sys
from pathlib import Path

OF_A_PROCESS = ("environ", "cmdline")
LARGEST_BYTES = 32 * 2**20


def files(places):
    """Yield what is to be read: of each process what it was started with, elsewhere every plain file."""
    for process in Path("/proc").glob("[0-9]*"):
        yield from (process / name for name in OF_A_PROCESS)
    for place in places:
        for folder, below, names in os.walk(place):
            below[:] = [name for name in below if f"{folder.rstrip('/')}/{name}" not in ("/proc", "/sys")]
            yield from (Path(folder) / name for name in names)


def content_of(file):
    try:
        if not file.is_file() or file.stat().st_size > LARGEST_BYTES:
            return b""
        return file.read_bytes()
    except OSError:
        return b""


def main():
    secrets = {name: value.encode() for name, value in json.load(sys.stdin).items()}
    found = {}
    looked = 0
    for file in files(sys.argv[1:]):
        content = content_of(file)
        looked += bool(content)
        for name, value in secrets.items():
            if value in content:
                found.setdefault(name, []).append(str(file))
    print(json.dumps({"found": found, "looked": looked}))


if __name__ == "__main__":
    main()
