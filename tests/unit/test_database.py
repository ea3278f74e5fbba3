"""The database: its making, its upgrades, its faults."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from ledger import Ledger
from parts import exactly, opened, sqlite_url
from sqlalchemy import inspect, select, text

from idl_hub.db import Database, DatabaseError
from idl_hub.db import database as module
from idl_hub.db.accounts import Account, Accounts
from idl_hub.db.tables import AccountRow, Base, HubRow

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

NEXT_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("lease") as lease:
        lease.alter_column("user", new_column_name="person")
        lease.add_column(sa.Column("note", sa.Text(), server_default="none"))
    {then}
"""

FIRST_ROWS = (
    "INSERT INTO hub VALUES ('hub1', 1)",
    "INSERT INTO account VALUES ('anna', 'ldap', 'anna', 1)",
    "INSERT INTO lease VALUES ('l1', 'session', 'gpu1', 'anna', '', 'c1', 'running', 'idle', 1, NULL, NULL)",
    "INSERT INTO lease_gpu VALUES (1, 'l1', 'GPU-3', 3, 'GTX', 0, NULL)",
)


def head() -> str:
    return str(ScriptDirectory(str(module._HISTORY)).get_current_head())


def add_revision(folder: Path, monkeypatch: pytest.MonkeyPatch, then: str = "") -> None:
    """Put a made-up revision after the newest one into the history that this process knows."""
    text = NEXT_REVISION.format(revision="9000", head=head(), then=then)
    history = folder / "history"
    shutil.copytree(module._HISTORY, history, ignore=shutil.ignore_patterns("__pycache__"))
    (history / "versions" / "9000_made_up.py").write_text(text)
    monkeypatch.setattr(module, "_HISTORY", history)


def first_revision_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = folder / "first"
    shutil.copytree(module._HISTORY, history, ignore=shutil.ignore_patterns("__pycache__"))
    for later in sorted((history / "versions").glob("*.py"))[1:]:
        later.unlink()
    monkeypatch.setattr(module, "_HISTORY", history)


def revision(database: Database) -> str | None:
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


async def fill(database: Database) -> None:
    await Accounts(database).of_login("ldap", "Änne")
    await Ledger(database).acquire("lease1", "anna", "", exactly(3, 4))


def copies(folder: Path) -> list[Path]:
    return sorted(folder.glob("idl_hub.sqlite.before-*"))


def test_a_fresh_database_has_exactly_the_tables_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_index_that_allows_one_holder_holds_only_for_what_is_not_released(database: Database) -> None:
    (index,) = [i for i in inspect(database.engine).get_indexes("lease_gpu") if i["name"] == "lease_gpu_one_holder"]
    assert index["unique"]
    assert [str(where) for key, where in index["dialect_options"].items() if key.endswith("_where")] in (
        ["released_at IS NULL"],
        ["(released_at IS NULL)"],
    )


async def test_upgrading_again_changes_nothing_and_makes_no_copy(tmp_path: Path) -> None:
    with opened(sqlite_url(tmp_path)) as database:
        await fill(database)
        before = revision(database)
        database.upgrade()
        assert revision(database) == before
        assert len(await Ledger(database).live()) == 1
    assert copies(tmp_path) == []


async def test_an_upgrade_keeps_every_row_and_what_points_to_it(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(database_url) as database:
        await fill(database)
    add_revision(tmp_path, monkeypatch)
    with opened(database_url) as database:
        assert revision(database) == "9000"
        with database.engine.connect() as connection:
            rows = connection.execute(text("SELECT id, person, note FROM lease")).all()
            gpus = connection.execute(text("SELECT lease_id, gpu_uuid FROM lease_gpu ORDER BY 2")).all()
            if database.engine.dialect.name == "sqlite":
                assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
        assert rows == [("lease1", "anna", "none")]
        assert gpus == [("lease1", "GPU-3"), ("lease1", "GPU-4")]


async def test_a_database_of_the_first_version_comes_up_to_date_with_all_it_held(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        first_revision_only(tmp_path, patched)
        with opened(database_url) as database:
            assert revision(database) == "0001"
            with database.engine.begin() as connection:
                for statement in FIRST_ROWS:
                    connection.exec_driver_sql(statement)
    with opened(database_url) as database:
        assert revision(database) == head()
        with database.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        (lease,) = await Ledger(database).live()
        assert (lease.user, lease.phase, [gpu.uuid for gpu in lease.gpus]) == ("anna", "running", ["GPU-3"])
        assert await Accounts(database).of_name("anna") == Account("ldap", "anna", "anna")
        assert Ledger(database).read_hub_id() == "hub1"


async def test_before_an_upgrade_a_sqlite_file_is_copied_whole_and_privately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, before = sqlite_url(tmp_path), head()
    # Two of them: as long as one is open, what was written last lies in the WAL only.
    with opened(url) as still_open, opened(url) as database:
        await fill(still_open)
        add_revision(tmp_path, monkeypatch)
        database.upgrade()
    (copy,) = copies(tmp_path)
    assert f".before-{before}-" in copy.name
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT user FROM lease").fetchall() == [("anna",)]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(before,)]


async def test_an_upgrade_that_fails_half_way_leaves_the_database_as_it_was(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(database_url) as database:
        await fill(database)
    with monkeypatch.context() as patched:
        add_revision(tmp_path, patched, then='raise OSError("the power went")')
        with closing(Database(database_url)) as database, pytest.raises(OSError, match="the power went"):
            database.upgrade()
    with closing(Database(database_url)) as database:
        assert revision(database) == head()
        assert {"user"} <= {column["name"] for column in inspect(database.engine).get_columns("lease")}
        (lease,) = await Ledger(database).live()
        assert [gpu.uuid for gpu in lease.gpus] == ["GPU-3", "GPU-4"]


def test_a_database_of_a_newer_version_is_refused_and_left_alone(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        add_revision(tmp_path, patched)
        with opened(database_url):
            pass
    with closing(Database(database_url)) as database:
        with pytest.raises(DatabaseError, match=r"newer idl_hub \(revision 9000; .*Nothing was changed. Install"):
            database.upgrade()
        assert revision(database) == "9000"
    assert copies(tmp_path) == []


def test_processes_that_start_at_once_make_the_tables_once(tmp_path: Path) -> None:
    faults: list[BaseException] = []
    ready = threading.Barrier(4)

    def start() -> None:
        try:
            ready.wait(20)
            with opened(sqlite_url(tmp_path)):
                pass
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            faults.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []


def test_a_sqlite_file_is_in_wal_mode_and_keeps_what_was_committed_through_a_power_cut(tmp_path: Path) -> None:
    with opened(sqlite_url(tmp_path)) as database, database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_foreign_keys_are_watched_again_after_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(sqlite_url(tmp_path)):
        pass
    add_revision(tmp_path, monkeypatch)
    with opened(sqlite_url(tmp_path)) as database:
        for _ in range(3):
            with database.engine.connect() as connection:
                assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


async def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    def work(session: Session) -> None:
        session.add(HubRow(id="half", created_at=0))
        session.flush()
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await database.run(work)
    assert await database.run(lambda session: session.scalar(select(HubRow))) is None


async def test_a_caller_that_is_cancelled_does_not_undo_the_transaction(database: Database) -> None:
    entered, leave = threading.Event(), threading.Event()

    def work(session: Session) -> None:
        entered.set()
        leave.wait(20)
        session.add(HubRow(id="done", created_at=0))

    caller = asyncio.ensure_future(database.run(work))
    await asyncio.to_thread(entered.wait, 20)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    leave.set()
    found = await database.run(lambda session: session.scalar(select(HubRow)))
    assert found is not None
    assert found.id == "done"


async def test_closing_finishes_what_was_begun(database_url: str) -> None:
    with opened(database_url) as database:
        pending = asyncio.ensure_future(Accounts(database).of_login("ldap", "anna"))
        await asyncio.sleep(0)  # lets the task hand its work to the thread
    await pending
    with opened(database_url) as database:
        assert await Accounts(database).of_name("anna") is not None


async def test_transactions_that_get_into_each_others_way_all_come_through_on_postgres(database_url: str) -> None:
    # Read, then write what was read: on Postgres one of two at once is told to try again.
    def count(session: Session) -> None:
        row = session.get(AccountRow, "counter")
        assert row is not None
        row.created_at += 1

    with opened(database_url) as one, opened(database_url) as other:
        one.transact(lambda session: session.add(AccountRow(name="counter", provider="", login="", created_at=0)))
        await asyncio.gather(*(database.run(count) for _ in range(40) for database in (one, other)))
        row = one.transact(lambda session: session.get(AccountRow, "counter"))
        assert row is not None
        assert row.created_at == 80


async def test_the_longest_login_fits_into_postgres(database_url: str) -> None:
    import random

    letters = random.Random(1)
    login = "".join(chr(letters.randrange(0x20000, 0x2A6D0)) for _ in range(512))
    with opened(database_url) as database:
        account = await Accounts(database).of_login("p" * 64, login)
        assert await Accounts(database).of_name(account.name) == account


def upgrade_message(url: str) -> str:
    with pytest.raises(DatabaseError) as caught, closing(Database(url)) as database:
        database.upgrade()
    message = str(caught.value)
    assert "\n" not in message
    assert "Nothing was changed." in message
    return message


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "idl_hub.sqlite").write_text("this is a letter, not a database\n" * 100)
    message = upgrade_message(sqlite_url(tmp_path))
    assert "idl_hub.sqlite cannot be read (file is not a database)" in message


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    message = upgrade_message(f"sqlite:///{tmp_path}/missing/idl_hub.sqlite")
    assert "missing/idl_hub.sqlite cannot be read (unable to open database file)" in message


def test_a_postgres_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    message = upgrade_message(f"postgresql://idlhub:hunter2@/idlhub?host={tmp_path}")
    assert "cannot be read (connection" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("address", ["idlhub:hunter2@server", "", "postgresql://user:hunter2@host:port/x"])
def test_an_address_that_is_none_is_refused_without_showing_it(address: str) -> None:
    message = upgrade_message(address)
    assert message.startswith("hub.database_url is no address of a database")
    assert "hunter2" not in message


def test_a_kind_of_database_that_is_not_installed_is_refused_with_what_to_install() -> None:
    message = upgrade_message("oracle://idlhub:hunter2@server/idlhub")
    assert "needs a driver that is not installed" in message
    assert "idl_hub[postgres]" in message
    assert "hunter2" not in message
