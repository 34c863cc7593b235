"""rfs: one undo for a whole application."""

__version__ = "0.1.0"
