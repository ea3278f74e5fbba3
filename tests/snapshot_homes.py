"""Homes in a plain folder, and a clock that a test turns, for tests of earlier versions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from idl_hub.homes import snapshots_folder
from idl_hub.homes.snapshots import Outcome, Snapshots
from idl_hub.homes.store import MARKER
from idl_hub.settings import Settings

BERLIN = ZoneInfo("Europe/Berlin")
SUNDAY = datetime(2026, 11, 22, 17, 0, tzinfo=BERLIN)


@dataclass
class World:
    """Homes, their copies, and what time it is."""

    folder: Path
    settings: Settings
    now: datetime = SUNDAY

    @property
    def snapshots(self) -> Snapshots:
        return Snapshots(self.settings, lambda: self.now)

    def home(self, account: str) -> Path:
        """Return somebody's home, made when it is missing."""
        home = self.folder / "homes" / account
        home.mkdir(mode=0o700, exist_ok=True)
        return home

    def take(self, *accounts: str, later: float = 0) -> dict[str, Outcome]:
        """Take copies, so many hours later."""
        self.now += timedelta(hours=later)
        return {outcome.account: outcome for outcome in self.snapshots.take(accounts)}

    def copies(self, account: str) -> list[Path]:
        """Return the folders of somebody's copies, oldest first, as they lie there."""
        found = (self.folder / "snapshots" / account).iterdir()
        return sorted(path for path in found if not path.name.startswith("."))


def world(folder: Path, **kept: int) -> World:
    """Return a world with nobody in it."""
    for name in ("homes", "snapshots"):
        (folder / name).mkdir()
    (folder / "homes" / MARKER).touch()
    (folder / "snapshots" / snapshots_folder.MARKER).touch()
    homes = {
        "directory": str(folder / "homes"),
        "snapshots": str(folder / "snapshots"),
        "uid": os.geteuid() or 1000,
        "gid": os.getegid() or 1000,
        "snapshots_kept": kept or {"hours": 48, "days": 14, "weeks": 8},
    }
    return World(folder, Settings.model_validate({"homes": homes}))
