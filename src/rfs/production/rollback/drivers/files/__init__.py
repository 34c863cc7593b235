"""The files driver: a folder's whole content, exact, at the cost of what changed."""

from rfs.production.rollback.drivers.files.driver import FilesDriver

__all__ = ["FilesDriver"]
