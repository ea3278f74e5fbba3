"""One database, reached from the hub's loop through a thread of its own."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Connection, Engine

Result = TypeVar("Result")
_HISTORY = Path(__file__).parent / "history"
_BUSY_TIMEOUT_SECONDS = 20
_CONNECT_TIMEOUT_SECONDS = 10
_ATTEMPTS = 12
_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.25
_CONFLICTS = 5
_TRY_AGAIN = frozenset({"40001", "40P01"})
"""Postgres's SQLSTATE for "could not serialize" and "deadlock": somebody was in the way, the same again may succeed."""


class DatabaseError(Exception):
    """The database cannot be used; the message says why and what to do."""


class Database:
    """Leases, accounts and what else is ours, in SQLite or Postgres.

    Parameters
    ----------
    url
        SQLAlchemy address. SQLite files are put into WAL mode.

    Raises
    ------
    DatabaseError
        When the address is none, or names a kind of database that is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = _url(url)
        self.engine = _engine(self.url)
        # SQLite has one writer anyway; one thread keeps transactions in the order they were asked for.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="idlhub-db")

    def upgrade(self) -> None:
        """Bring the tables to this version, keeping a copy of a SQLite file that changes.

        Raises
        ------
        DatabaseError
            When the database does not answer, or was written by a newer version.
        """
        configuration = alembic.config.Config()
        configuration.set_main_option("script_location", str(_HISTORY))
        script = ScriptDirectory.from_config(configuration)
        newest = script.get_current_head()
        try:
            with self.engine.connect() as connection:
                current = MigrationContext.configure(connection).get_current_revision()
        except (DBAPIError, sqlite3.Error) as error:
            cause = " ".join(str(getattr(error, "orig", error)).split())
            raise DatabaseError(
                f"The database {self.url.render_as_string()} cannot be read ({cause}). "
                "Nothing was changed. Check its address, its disk and that the hub may write there."
            ) from error
        if current == newest:
            return
        if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
            raise DatabaseError(
                f"The database {self.url.render_as_string()} was written by a newer idl_hub (revision {current}; "
                f"this one knows up to {newest}). Nothing was changed. Install the newer version again, "
                "or restore the copy made before its upgrade."
            )
        if current is not None:
            self._keep_copy(current)
        with self._connect_for_upgrade() as connection, connection.begin():
            configuration.attributes["connection"] = connection
            alembic.command.upgrade(configuration, "head")

    def _connect_for_upgrade(self) -> Connection:
        connection = self.engine.connect()
        if self.url.get_backend_name() == "sqlite":
            # Changing a table in SQLite means to drop and rename it, which must not touch the rows that point to it.
            # Inside a transaction the switch does nothing, so it goes past SQLAlchemy, which would begin one.
            connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
            connection.detach()  # closed afterwards, so the switch does not return to the pool
        return connection

    def _keep_copy(self, revision: str) -> None:
        if self.url.get_backend_name() != "sqlite" or not self.url.database:
            return
        copy = Path(f"{self.url.database}.before-{revision}-{int(time.time())}")
        copy.touch(mode=0o600)
        # SQLite's own way to copy: what still lies in the WAL comes along.
        with closing(sqlite3.connect(self.url.database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)

    def transact(self, work: Callable[[Session], Result]) -> Result:
        """Run `work` in one transaction in this thread: committed when it returns, undone when it raises.

        On Postgres it is run again when another transaction was in the way, so it should change nothing else.
        """
        for attempt in range(_ATTEMPTS - 1):
            try:
                return self._transact_once(work)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _TRY_AGAIN:
                    raise
            # Two that try again at once meet again: each waits for a time of its own, longer from try to try.
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2**attempt)))  # noqa: S311
        return self._transact_once(work)

    def _transact_once(self, work: Callable[[Session], Result]) -> Result:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            return work(session)

    async def run(self, work: Callable[[Session], Result]) -> Result:
        """Run `work` in one transaction in the database's thread.

        A caller that is cancelled does not undo it: the transaction ends either way.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, self.transact, work))

    async def run_again_on_conflict(self, work: Callable[[Session], Result]) -> Result:
        """Run `work` as `run` does, and again when another writer took what it wanted to take.

        Raises
        ------
        sqlalchemy.exc.IntegrityError
            When that happened every time.
        """
        for _ in range(_CONFLICTS - 1):
            try:
                return await self.run(work)
            except IntegrityError:
                continue
        return await self.run(work)

    def close(self) -> None:
        """Finish what was begun and let go of the database."""
        self._thread.shutdown(wait=True)
        self.engine.dispose()


def _url(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise DatabaseError(
            "hub.database_url is no address of a database (it is not shown, since it may hold a password); "
            "allowed: something like postgresql://idlhub:PASSWORD@server/idlhub. Nothing was changed."
        ) from None
    # The driver that our extra `postgres` installs, whatever SQLAlchemy would take by default.
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    try:
        return create_engine(
            url,
            pool_pre_ping=True,
            isolation_level="SERIALIZABLE",
            connect_args={"connect_timeout": _CONNECT_TIMEOUT_SECONDS},
        )
    except (ImportError, NoSuchModuleError) as error:
        raise DatabaseError(
            f"The database {url.render_as_string()} needs a driver that is not installed ({error}). "
            "Nothing was changed. For Postgres install idl_hub with its extra: pip install 'idl_hub[postgres]'."
        ) from error


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: object, _record: object) -> None:
        # Our own BEGIN (below) replaces the driver's late one.
        connection.isolation_level = None  # type: ignore[attr-defined]
        cursor = connection.cursor()  # type: ignore[attr-defined]
        _switch_to_wal(cursor)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A read that turns into a write would fail at once with SQLITE_BUSY; IMMEDIATE waits for its turn instead.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    """Put a new file into WAL mode; where several processes do so at once, SQLite itself would not wait."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
