#!/usr/bin/python3
"""Backs up the hub with restic: databases, settings, state, images, homes.

``idl-hub-backup run``      make a snapshot in every repository
``idl-hub-backup tidy``     give back the room of old snapshots and check what is stored
``idl-hub-backup restic …`` restic itself, with the first repository and its password

Written by the role "backup"; needs Python's standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIGURATION = Path(os.environ.get("IDLHUB_BACKUP_CONFIGURATION", "/etc/idl_hub/backup/backup.json"))
STEPS = ("wait", "databases", "homes", "files", "retention", "tidy")
"""What may fail, as the metric ``idlhub_backup_failed`` names it."""
_SOME_FILES_UNREAD = 3
"""restic's exit status when there is a snapshot, and some files are not in it."""


class BackupError(Exception):
    """A step failed; the message says which and why."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class Configuration:
    """What the role wrote; the README of the role explains each."""

    host: str
    repositories: tuple[str, ...]
    environment: dict[str, str]
    password_file: str
    databases: tuple[str, ...]
    dumps: Path
    paths: tuple[str, ...]
    changing: tuple[str, ...]
    """Folders in which files come and go while they are read: one that went is no failure."""
    excludes: tuple[str, ...]
    homes: str
    """The folder of homes, which must hold its marker; empty when homes are not backed up."""
    keep: dict[str, int]
    check_subset: str
    metrics: Path
    lock: Path
    wait_seconds: float

    @classmethod
    def load(cls, path: Path) -> Configuration:
        """Read the file of the role."""
        values = json.loads(path.read_text())
        for name in ("repositories", "databases", "paths", "changing", "excludes"):
            values[name] = tuple(values[name])
        for name in ("dumps", "metrics", "lock"):
            values[name] = Path(values[name])
        return cls(**values)


@dataclass
class Report:
    """What Prometheus is told."""

    failed: set[str] = field(default_factory=set)
    seconds: float = 0.0
    unread: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    """Bytes in each repository, which are numbered from 1: their addresses may hold passwords."""


class Backup:
    """One run; `report` tells how it went."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.report = Report()

    # -- making a snapshot --------------------------------------------------------------------------

    def run(self) -> None:
        """Dump the databases, then store everything in every repository.

        What can be stored is stored, even when something before failed: its snapshot is then marked as incomplete.

        Raises
        ------
        BackupError
            With the first thing that failed, after all else was done.
        """
        failures = []
        for step in (self._dump, self._find_homes):
            try:
                step()
            except BackupError as error:
                failures.append(self._failed(error))
        complete = not failures
        for number, repository in enumerate(self.configuration.repositories, 1):
            try:
                self._store(number, repository, complete=complete)
            except BackupError as error:
                failures.append(self._failed(error))
        shutil.rmtree(self.configuration.dumps, ignore_errors=True)
        if failures:
            raise failures[0]

    def _dump(self) -> None:
        """Write each database into a folder of root's, as of one moment."""
        dumps = self.configuration.dumps
        shutil.rmtree(dumps, ignore_errors=True)
        dumps.mkdir(mode=0o700, parents=True)
        for name in self.configuration.databases:
            # Not compressed: restic does that, and stores only what changed since the last one.
            command = ["runuser", "-u", "postgres", "--", "pg_dump", "--format=custom", "--compress=0", name]
            with (dumps / f"{name}.dump").open("wb") as file:
                done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                (dumps / f"{name}.dump").unlink()
                why = done.stderr.strip() or f"pg_dump ended with {done.returncode}"
                raise BackupError("databases", f"The database {name} could not be dumped: {why}")

    def _find_homes(self) -> None:
        homes = self.configuration.homes
        if homes and not (Path(homes) / ".idl_hub-homes").is_file():
            why = f"{homes}/.idl_hub-homes is missing: the homes are not mounted. This backup does not hold them."
            raise BackupError("homes", why)

    def _store(self, number: int, repository: str, *, complete: bool) -> None:
        self.unlock(repository)
        command = ["backup", "--json", "--exclude-caches", "--host", self.configuration.host]
        command += ["--tag", "idl-hub", "--tag", "complete" if complete else "incomplete"]
        command += [f"--exclude={pattern}" for pattern in self.configuration.excludes]
        there = [path for path in (*self.configuration.paths, *self.configuration.changing) if Path(path).exists()]
        done = self.restic(repository, *command, str(self.configuration.dumps), *there)
        unread = _unread(done.stderr)
        self.report.unread = max(self.report.unread, len(unread))
        missing = [item for item in unread if not self._may_change(item)]
        snapshot = _snapshot(done.stdout)
        if missing and complete and snapshot:
            self.restic(repository, "tag", "--remove=complete", "--add=incomplete", snapshot)
        if done.returncode not in (0, _SOME_FILES_UNREAD) or missing or not snapshot:
            why = f"could not read {', '.join(missing[:5])}" if missing else _last_words(done)
            raise BackupError("files", f"restic in repository {number}: {why}")
        _say(f"repository {number}: snapshot {snapshot[:8]} is {'complete' if complete else 'incomplete'}")
        self._forget(number, repository)
        self.report.sizes[number] = self._size(repository)

    def _may_change(self, item: str) -> bool:
        return any(item == folder or item.startswith(f"{folder}/") for folder in self.configuration.changing)

    def _forget(self, number: int, repository: str) -> None:
        """Let old snapshots go; those that are incomplete count for themselves, so that they push no whole one out."""
        keep = [f"--keep-{unit}={count}" for unit, count in self.configuration.keep.items()]
        command = ["forget", "--host", self.configuration.host, "--group-by", "host,tags", *keep]
        done = self.restic(repository, *command)
        if done.returncode:
            raise BackupError("retention", f"restic forget in repository {number}: {_last_words(done)}")

    def _size(self, repository: str) -> int:
        done = self.restic(repository, "stats", "--mode", "raw-data", "--json")
        return int(json.loads(done.stdout)["total_size"]) if done.returncode == 0 else 0

    # -- looking after what is stored -----------------------------------------------------------------

    def tidy(self) -> None:
        """Give back the room of snapshots that were let go, and check a part of what is stored."""
        failures = []
        for number, repository in enumerate(self.configuration.repositories, 1):
            self.unlock(repository)
            subset = f"--read-data-subset={self.configuration.check_subset}"
            for command in (["prune"], ["check", subset]):
                done = self.restic(repository, *command)
                if done.returncode:
                    why = f"restic {command[0]} in repository {number}: {_last_words(done)}"
                    failures.append(self._failed(BackupError("tidy", why)))
                    break
            self.report.sizes[number] = self._size(repository)
        if failures:
            raise failures[0]

    # -- restic ---------------------------------------------------------------------------------------

    def unlock(self, repository: str) -> None:
        """Remove locks of processes that are gone; restic keeps those of anybody who is still at work."""
        self.restic(repository, "unlock", "--quiet")

    def restic(self, repository: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run restic and return what it said."""
        command = ["restic", *arguments]
        environment = self.environment(repository)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def environment(self, repository: str) -> dict[str, str]:
        """Return what restic needs to know to open a repository."""
        return {
            **os.environ,
            **self.configuration.environment,
            "RESTIC_REPOSITORY": repository,
            "RESTIC_PASSWORD_FILE": self.configuration.password_file,
            "RESTIC_CACHE_DIR": "/var/cache/idl-hub-backup",
        }

    def _failed(self, error: BackupError) -> BackupError:
        _say(str(error), error=True)
        self.report.failed.add(error.step)
        return error


# -- what others see ----------------------------------------------------------------------------------


def write_metrics(configuration: Configuration, verb: str, report: Report, *, now: float) -> None:
    """Tell Prometheus how the run went; the time of the last success outlives a run that failed."""
    kept = configuration.metrics.with_name(f"idl_hub_backup_{verb}.prom")
    name = "idlhub_backup" if verb == "run" else "idlhub_backup_tidy"
    succeeded = now if not report.failed else _last_success(kept, name)
    lines = _metric(f"{name}_last_success_timestamp_seconds", "When this last went well.", {"": succeeded})
    lines += _metric(f"{name}_duration_seconds", "How long the last run took.", {"": report.seconds})
    steps = [step for step in STEPS if (step == "tidy") == (verb == "tidy") or step == "wait"]
    failed = {f'{{step="{step}"}}': int(step in report.failed) for step in steps}
    lines += _metric(f"{name}_failed", "1: this step of the last run failed.", failed)
    if verb == "run":
        sizes = {f'{{repository="{number}"}}': size for number, size in report.sizes.items()}
        lines += _metric("idlhub_backup_size_bytes", "What a repository takes.", sizes)
        gone = "Files that were gone before they could be read."
        lines += _metric("idlhub_backup_unread_files", gone, {"": report.unread})
    if configuration.metrics.parent.is_dir():
        new = kept.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.chmod(0o644)
        new.replace(kept)


def _metric(name: str, text: str, values: Mapping[str, float]) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge"] + [f"{name}{at} {value}" for at, value in values.items()]


def _last_success(metrics: Path, name: str) -> float:
    with contextlib.suppress(OSError, ValueError):
        for line in metrics.read_text().splitlines():
            if line.startswith(f"{name}_last_success_timestamp_seconds "):
                return float(line.split()[1])
    return 0.0


def _unread(stderr: str) -> list[str]:
    """Return the files that restic names as not read."""
    return [str(message.get("item", "?")) for message in _messages(stderr) if message.get("message_type") == "error"]


def _snapshot(stdout: str) -> str:
    """Return the id of what was stored; empty when nothing was."""
    found = [m["snapshot_id"] for m in _messages(stdout) if m.get("message_type") == "summary"]
    return str(found[-1]) if found else ""


def _messages(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return " ".join(said[-6:]) or f"ended with {done.returncode}"


def _say(text: str, *, error: bool = False) -> None:
    print(f"idl-hub-backup: {text}", file=sys.stderr if error else sys.stdout, flush=True)


# -- the command ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone(configuration: Configuration) -> Iterator[None]:
    """Hold off while another run is at work, and give up after a while.

    Raises
    ------
    BackupError
        The other one did not end.
    """
    with configuration.lock.open("w") as lock:
        deadline = time.monotonic() + configuration.wait_seconds
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    why = f"Another run is still at work after {configuration.wait_seconds:.0f} s; nothing was done."
                    raise BackupError("wait", why) from None
                if not told:
                    _say("another run is at work; waiting for it")
                    told = True
                time.sleep(0.2)
        yield


def work(configuration: Configuration, verb: str) -> int:
    """Do what was asked for and tell how it went."""
    backup = Backup(configuration)
    started = time.monotonic()
    status = 0
    try:
        with alone(configuration):
            getattr(backup, verb)()
    except BackupError as error:
        if error.step not in backup.report.failed:
            _say(str(error), error=True)
            backup.report.failed.add(error.step)
        status = 1
    except KeyboardInterrupt:
        _say("stopped before it was done; the next run begins anew", error=True)
        backup.report.failed.add("tidy" if verb == "tidy" else "files")
        status = 1
    backup.report.seconds = round(time.monotonic() - started, 1)
    write_metrics(configuration, verb, backup.report, now=round(time.time()))
    return status


def main(arguments: list[str]) -> int:
    """Run the command line; see the top of the file."""
    parser = argparse.ArgumentParser(prog="idl-hub-backup", description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("run", help="make a snapshot in every repository")
    verbs.add_parser("tidy", help="give back the room of old snapshots and check what is stored")
    verbs.add_parser("restic", help="restic itself, with the repository and its password")
    # All that follows "restic" is restic's.
    asked = parser.parse_args(arguments[:1] if arguments[:1] == ["restic"] else arguments)
    try:
        configuration = Configuration.load(CONFIGURATION)
    except OSError as error:
        _say(f"{CONFIGURATION} cannot be read: {error.strerror}. Run it as root, on the hub.", error=True)
        return 1
    if asked.verb == "restic":
        environment = Backup(configuration).environment(configuration.repositories[0])
        os.execvpe("restic", ["restic", *arguments[1:]], environment)  # noqa: S606 - takes this process's place
    # systemd ends a run that takes too long; what that means is told as for any other failure.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return work(configuration, asked.verb)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
