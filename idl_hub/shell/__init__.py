"""What an admin looks at and does from the shell: GPUs, the line, a person's story, usage, drain and exclude."""

from __future__ import annotations

from typing import Any


def add_commands(subparsers: Any) -> None:
    """Add the commands."""
