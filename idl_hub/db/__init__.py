"""Our tables, their history, and the one way to them."""

from idl_hub.db.database import Database, DatabaseError

__all__ = ["Database", "DatabaseError"]
