"""What docs/reference/metrics.md says there is."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "metrics.md"
_ROW = re.compile(r"^\| `(\w+)(?:\{([\w,]+)\})?` \|", re.MULTILINE)


def documented(section: str = "") -> dict[str, set[str]]:
    """Return metrics with their labels: all of them, or those under one heading of the second level."""
    parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    texts = {part.partition("\n")[0]: part for part in parts}
    text = texts[section] if section else "".join(parts)
    return {name: set(filter(None, labels.split(","))) for name, labels in _ROW.findall(text)}
