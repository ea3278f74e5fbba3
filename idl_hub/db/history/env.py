"""Alembic's entry point; the connection is handed in by `Database.upgrade`."""

from alembic import context

from idl_hub.db.tables import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
