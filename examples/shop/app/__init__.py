"""A small web shop: one web process, one worker, one database."""

VERSION = "1.4.2"
