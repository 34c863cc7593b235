"""SQLite databases: captured online, stored by page runs, restored through SQLite itself."""

from rfs.production.rollback.drivers.sqlite.driver import SqliteDriver

__all__ = ["SqliteDriver"]
