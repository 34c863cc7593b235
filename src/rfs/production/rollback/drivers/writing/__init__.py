"""Configuration files written so that what was not changed stays as it was: comments, order and layout.

Each format has an editor that changes text; none of them is believed. What it made is read
back, and is only returned when it says exactly what was asked for.
"""

from rfs.production.rollback.drivers.writing.write import UnwritableError, as_said, read, same, write

__all__ = ["UnwritableError", "as_said", "read", "same", "write"]
