"""One database, reached from the hub's loop through a thread of its own."""

from __future__ import annotations

import asyncio
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

Result = TypeVar("Result")
_HISTORY = Path(__file__).parent / "history"
_BUSY_TIMEOUT_SECONDS = 20


class DatabaseError(Exception):
    """The database cannot be used; the message says why and what to do."""


class Database:
    """Leases, accounts and what else is ours, in SQLite or Postgres.

    Parameters
    ----------
    url
        SQLAlchemy address. SQLite files are put into WAL mode.
    """

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.engine = _engine(url)
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
        except OperationalError as error:
            raise DatabaseError(
                f"The database {self.url.render_as_string()} does not answer ({error.orig}). "
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
        with self.engine.begin() as connection:
            configuration.attributes["connection"] = connection
            alembic.command.upgrade(configuration, "head")

    def _keep_copy(self, revision: str) -> None:
        if self.url.get_backend_name() != "sqlite" or not self.url.database:
            return
        with self.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy2(self.url.database, f"{self.url.database}.before-{revision}-{int(time.time())}")

    def transact(self, work: Callable[[Session], Result]) -> Result:
        """Run `work` in one transaction in this thread: committed when it returns, undone when it raises."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            return work(session)

    async def run(self, work: Callable[[Session], Result]) -> Result:
        """Run `work` in one transaction in the database's thread.

        A caller that is cancelled does not undo it: the transaction ends either way.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, self.transact, work))

    def close(self) -> None:
        """Finish what was begun and let go of the database."""
        self._thread.shutdown(wait=True)
        self.engine.dispose()


def _engine(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, isolation_level="SERIALIZABLE")
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: object, _record: object) -> None:
        # Our own BEGIN (below) replaces the driver's late one.
        connection.isolation_level = None  # type: ignore[attr-defined]
        cursor = connection.cursor()  # type: ignore[attr-defined]
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A read that turns into a write would fail at once with SQLITE_BUSY; IMMEDIATE waits for its turn instead.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
