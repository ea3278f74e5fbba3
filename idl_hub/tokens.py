"""Secrets that services and the hub share, kept in the hub's state folder."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def service_token(state_directory: Path, name: str) -> str:
    """Return the token of a service, made by whichever process asks first, in a file for its user alone.

    Raises
    ------
    OSError
        When the file cannot be made or read.
    """
    file = state_directory / f"{name}-token"
    fresh = file.with_name(f".{name}-token.{os.getpid()}")
    if not file.exists():
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as target:
            target.write(secrets.token_hex(32))
        try:
            os.link(fresh, file)  # whole or not at all, and never over the other's
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return file.read_text(encoding="ascii").strip()
