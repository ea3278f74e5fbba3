"""``idl-hub reload``: the hub reads its settings anew and takes over what it can without a restart."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from idl_hub import settings as settings_module
from idl_hub.settings import Settings, SettingsError
from idl_hub.spawners.executor import Executor, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from idl_hub.db.commands import Command
    from idl_hub.db.events import Events
    from idl_hub.settings_servers import ServerSettings
    from idl_hub.spawners.members import Changes, Members


class Reload:
    """One per hub.

    Parameters
    ----------
    settings
        What the hub was started with.
    read
        Returns what the settings files say now; raises `SettingsError`.
    """

    def __init__(
        self,
        settings: Settings,
        members: Members,
        executor: Executor,
        events: Events,
        read: Callable[[], Settings] = lambda: settings_module.load(settings_module.files_from_environment()),
    ) -> None:
        self._started_with = settings
        self._members = members
        self._executor = executor
        self._events = events
        self._read = read

    async def execute(self, command: Command) -> str:
        """Take over servers and quiet hours, and name what else needs a restart.

        Raises
        ------
        Refused
            When the settings cannot be used; then nothing is changed.
        """
        try:
            new = await asyncio.to_thread(self._read_and_check)
        except SettingsError as error:
            raise Refused(f"The settings cannot be used, so nothing was changed: {error}") from error
        said = []
        if self._started_with.servers:
            changes = self._members.apply(new.servers)
            await self._note(changes, command.asked_by)
            said += _words(changes)
        if new.quiet != self._executor.quiet:
            self._executor.quiet = new.quiet
            said.append("The quiet hours are as the settings say now.")
        if late := self._needs_restart(new):
            said.append(f"These need a restart of the hub: {', '.join(late)}.")
        return " ".join(said) or "The settings say nothing new."

    def _read_and_check(self) -> Settings:
        new, before = self._read(), self._started_with
        if before.servers and not new.servers:
            raise SettingsError("servers is empty; allowed: at least one server, or a restart of the hub")
        if len(new.servers) > 1 and before.homes.directory != new.homes.directory:
            # Else each server would have homes of its own until then.
            raise SettingsError("homes.directory has changed, which needs a restart of the hub before servers join")
        if before.spawner.kind != new.spawner.kind:
            raise SettingsError("spawner.kind has changed, which needs a restart of the hub")
        for number, server in enumerate(new.servers):
            for key, file in _files(server):
                _check_readable(f"servers.{number}.{key}", file)
        return new

    def _needs_restart(self, new: Settings) -> list[str]:
        before, after = dict(_flat(self._started_with)), dict(_flat(new))
        differ = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        taken_over = ("quiet.", "servers") if self._started_with.servers else ("quiet.",)
        return [key for key in differ if not key.startswith(taken_over)]

    async def _note(self, changes: Changes, asked_by: str) -> None:
        for text, names in (
            ("joins", changes.joined),
            ("leaves: it is not in the settings any more", changes.leaving),
            ("has other settings", changes.changed),
        ):
            for name in names:
                await self._events.note("admin", f"{name} {text} ({asked_by})", server=name)


def _words(changes: Changes) -> list[str]:
    said = []
    if changes.joined:
        said.append(f"Joining: {', '.join(changes.joined)}.")
    if changes.changed:
        said.append(f"Changed, in force as soon as no session starts or stops there: {', '.join(changes.changed)}.")
    if changes.leaving:
        said.append(f"Leaving as soon as the sessions there have ended: {', '.join(changes.leaving)}.")
    return said


def _files(server: ServerSettings) -> Iterator[tuple[str, Path]]:
    for part in ("engine", "agent"):
        section = getattr(server, part)
        for key in ("ca_file", "certificate_file", "key_file", "token_file"):
            if (file := getattr(section, key, None)) is not None:
                yield f"{part}.{key}", file


def _check_readable(key: str, file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise SettingsError(f"{key} is {str(file)!r}; it cannot be read: {error.strerror}") from error


def _flat(settings: Settings) -> Iterable[tuple[str, Any]]:
    """Yield every setting as its key and value; a list is one value."""
    for name, value in settings.model_dump().items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value
