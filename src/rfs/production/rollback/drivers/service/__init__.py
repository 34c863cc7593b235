"""Services: the units of an application, whatever starts and stops them. One module for each manager."""

from rfs.production.rollback.drivers.service.driver import ServiceDriver

__all__ = ["ServiceDriver"]
