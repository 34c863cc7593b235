"""Checkpoints of a PostgreSQL database on a connection that the caller has already: in place, in one transaction."""
