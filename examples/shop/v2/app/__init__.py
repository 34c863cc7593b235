"""A small web shop, now in the cloud."""

VERSION = "2.0.0"
