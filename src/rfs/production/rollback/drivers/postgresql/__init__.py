"""Databases of a PostgreSQL server: captured online, restored beside the live one, swapped in by name."""

from rfs.production.rollback.drivers.postgresql.driver import PostgresqlDriver

__all__ = ["PostgresqlDriver"]
