"""How far a pull is, in one line for whoever waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEASURED_SECONDS = 3.0
_FETCHED = frozenset({"Verifying Checksum", "Download complete"})


@dataclass(slots=True)
class _Layer:
    size_bytes: int = 0
    """Packed; 0 while nobody told."""
    fetched_bytes: int = 0
    unpacked_bytes: int = 0
    complete: bool = False


@dataclass(frozen=True, slots=True)
class _Stage:
    """Fetching or unpacking: when it began, and what was done of it by then."""

    verb: str
    began_at: float
    done_bytes: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a pull is."""

    words: str
    """Such as "Fetching the image: 420 of 1300 MB (32 %), about 2 minutes left"."""
    done_ratio: float
    """0 to 1, of fetching and unpacking together."""


class Tally:
    """Adds up what the engine tells of each layer of an image.

    Parameters
    ----------
    sizes
        First digits of a layer's digest -> its packed size in bytes, as far as they are known. The engine itself
        tells a size only when it begins to fetch that layer.
    now
        When the pull began, in seconds; later moments are of the same clock.
    """

    def __init__(self, sizes: Mapping[str, int], now: float) -> None:
        self._sizes = sizes
        self._layers: dict[str, _Layer] = {}
        self._waits_for_registry = False
        self._stage: _Stage | None = None
        self.moved_at = now
        """When something was last fetched, unpacked or found to be there."""

    def hear(self, event: Mapping[str, Any], now: float) -> None:
        """Take in one line of the engine's answer to a pull."""
        status, layer_id = str(event.get("status", "")), str(event.get("id", ""))
        if status.startswith("Retrying in"):
            self._waits_for_registry = True
            return
        if status == "Already exists":
            self._layers.pop(layer_id, None)
            self.moved_at = now
            return
        if status in {"Pulling fs layer", "Waiting"}:
            self._layers.setdefault(layer_id, _Layer(self._sizes.get(layer_id, 0)))
            return
        layer = self._layers.get(layer_id)
        if layer is None:
            return
        before = (layer.fetched_bytes, layer.unpacked_bytes, layer.complete)
        _advance(layer, status, event.get("progressDetail") or {})
        if before != (layer.fetched_bytes, layer.unpacked_bytes, layer.complete):
            self._waits_for_registry = False
            self.moved_at = now
            verb, done, _ = self._now_at()
            if self._stage is None or self._stage.verb != verb:
                self._stage = _Stage(verb, now, done)

    @property
    def fetched_bytes(self) -> int:
        """What has come so far."""
        return sum(layer.fetched_bytes for layer in self._layers.values())

    def standing(self, now: float) -> Standing:
        """Say how far the pull is."""
        verb, done, size = self._now_at()
        fetched, unpacked = self.fetched_bytes, self._unpacked_bytes
        ratio = (fetched + unpacked) / (2 * size) if size else 0.0
        if not self._layers:
            return Standing("Fetching the image: asking for what is missing", 0.0)
        if self._waits_for_registry:
            so_far = f"{_mb(fetched)} of {_mb(size)} MB are here"
            return Standing(f"Fetching the image: the registry does not answer, trying again; {so_far}", ratio)
        if not all(layer.size_bytes for layer in self._layers.values()):
            return Standing(f"Fetching the image: {_mb(fetched)} MB so far", min(ratio, 0.5))
        words = f"{verb} the image: {_mb(done)} of {_mb(size)} MB ({100 * done / size:.0f} %)"
        return Standing(words + self._left(done, size, now), ratio)

    @property
    def _unpacked_bytes(self) -> int:
        return sum(layer.unpacked_bytes for layer in self._layers.values())

    def _now_at(self) -> tuple[str, int, int]:
        """Return what is being done, and of how many bytes how many are done."""
        size = sum(layer.size_bytes for layer in self._layers.values())
        if size and self.fetched_bytes >= size:
            return "Unpacking", self._unpacked_bytes, size
        return "Fetching", self.fetched_bytes, size

    def _left(self, done: int, size: int, now: float) -> str:
        """Say how long this stage will take at its speed so far; nothing while that was not measured for long enough.

        Of fetching nothing follows for unpacking: the one hangs on the network, the other on the disk.
        """
        stage = self._stage
        if stage is None or now - stage.began_at < _MEASURED_SECONDS or done <= stage.done_bytes:
            return ""
        minutes = round((size - done) * (now - stage.began_at) / (done - stage.done_bytes) / 60)
        if minutes < 1:
            return ", less than a minute left"
        return f", about {minutes} minute{'s' if minutes > 1 else ''} left"


def _advance(layer: _Layer, status: str, detail: Mapping[str, Any]) -> None:
    current = int(detail.get("current") or 0)
    if status == "Downloading":
        layer.size_bytes = layer.size_bytes or int(detail.get("total") or 0)
        layer.fetched_bytes = min(current, layer.size_bytes)
    elif status in _FETCHED:
        layer.size_bytes = layer.size_bytes or layer.fetched_bytes
        layer.fetched_bytes = layer.size_bytes
    elif status == "Extracting":
        layer.size_bytes = layer.size_bytes or int(detail.get("total") or 0)
        layer.fetched_bytes, layer.unpacked_bytes = layer.size_bytes, min(current, layer.size_bytes)
    elif status == "Pull complete":
        layer.fetched_bytes = layer.unpacked_bytes = layer.size_bytes
        layer.complete = True


def _mb(size_bytes: int) -> int:
    return round(size_bytes / 1e6)
