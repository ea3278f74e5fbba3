"""Our tables, their history, and the ways to them."""

from idl_hub.db.database import Database, DatabaseError
from idl_hub.db.reader import Reader

__all__ = ["Database", "DatabaseError", "Reader"]
