"""Databases of a PostgreSQL server: captured online, restored beside the live one, swapped in by name."""

from rfs.production.rollback.drivers.postgresql.aside import Aside, listed
from rfs.production.rollback.drivers.postgresql.driver import PostgresqlDriver
from rfs.production.rollback.drivers.postgresql.export import Surplus, surplus

__all__ = ["Aside", "PostgresqlDriver", "Surplus", "listed", "surplus"]
