"""A small web shop: one web process, one worker, one SQLite file. Standard library only."""

VERSION = "1.4.2"
