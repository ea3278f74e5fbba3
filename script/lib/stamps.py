"""Stamps: a step whose inputs did not change since it last finished is not done again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def digest(files: Iterable[Path], *texts: str) -> str:
    """Return a hash over the contents of files and some texts, such as a version."""
    hasher = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        hasher.update(f"{path.name}:{len(content)}:".encode() + content)
    for text in texts:
        hasher.update(f"text:{len(text)}:{text}".encode())
    return hasher.hexdigest()


@dataclass(frozen=True)
class Stamp:
    """A file holding the hash of what a finished step was made from.

    ``begin`` marks the step as unfinished, ``finish`` writes the hash last of all: whatever moment
    a run is interrupted at, the next one sees either a finished step or an unfinished one.
    """

    path: Path

    def is_current(self, inputs: str) -> bool:
        """Return whether the step finished with exactly these inputs."""
        return not self.was_interrupted() and self.path.is_file() and self.path.read_text() == inputs

    def was_interrupted(self) -> bool:
        """Return whether a run began the step and never finished it."""
        return self._begun.exists()

    def begin(self) -> None:
        """Mark the step as begun."""
        self._begun.parent.mkdir(parents=True, exist_ok=True)
        self._begun.touch()
        self.path.unlink(missing_ok=True)

    def finish(self, inputs: str) -> None:
        """Mark the step as finished with these inputs."""
        fresh = self.path.with_name(f"{self.path.name}.new")
        fresh.write_text(inputs)
        fresh.replace(self.path)
        self._begun.unlink(missing_ok=True)

    @property
    def _begun(self) -> Path:
        return self.path.with_name(f"{self.path.name}.begun")
