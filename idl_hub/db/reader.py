"""Looks into the database without ever being in the hub's way."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Connection, Engine

Result = TypeVar("Result")
_TIMEOUT_SECONDS = 10


class Reader:
    """Transactions that see one moment and can change nothing.

    `Database` takes SQLite's only write lock for everything it does; a process that looks every second must not.

    Parameters
    ----------
    url
        SQLAlchemy address, as `Database` takes it.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgres(parsed)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="idlhub-reader")

    def look(self, work: Callable[[Session], Result]) -> Result:
        """Run `work` in one transaction in this thread.

        Raises
        ------
        sqlalchemy.exc.DBAPIError
            When the database does not answer, or its tables are not there (yet).
        """
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            return work(session)

    async def run(self, work: Callable[[Session], Result]) -> Result:
        """Run `work` in one transaction in the reader's thread; raises as `look` does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.look, work)

    def close(self) -> None:
        """Let go of the database."""
        self._thread.shutdown(wait=True)
        self._engine.dispose()


def _sqlite(url: URL) -> Engine:
    address = f"file:{quote(url.database or '')}?mode=rw"  # not rwc: only the hub makes the file

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            address, uri=True, timeout=_TIMEOUT_SECONDS, check_same_thread=False, isolation_level=None
        )
        connection.execute("PRAGMA query_only=ON").close()
        return connection

    engine = create_engine(url, creator=connect)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Without a BEGIN each query would see another moment; this one takes no lock in WAL mode.
        connection.exec_driver_sql("BEGIN DEFERRED")

    return engine


def _postgres(url: URL) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return create_engine(
        url,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
        execution_options={"postgresql_readonly": True},
        connect_args={"connect_timeout": _TIMEOUT_SECONDS},
    )
