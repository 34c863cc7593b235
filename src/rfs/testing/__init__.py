"""For authors of drivers: a conformance suite, faults without a compiler, and parts in memory.

    from rfs.testing import DriverSuite, component

    class TestMyDriver(DriverSuite):
        def make_driver(self): return MyDriver()
        def make_component(self, tmp): ...
        def change(self, c, n): ...
        def read(self, c): ...

Run by pytest, every check of `DriverSuite` becomes a test of the driver.
"""

from rfs.testing.faults import Interrupted, Interruption, interrupt_at
from rfs.testing.memory import MemoryDriver, MemoryOptions, MemoryStore, component, load_capture, save_capture
from rfs.testing.suite import DriverSuite

__all__ = [
    "DriverSuite",
    "Interrupted",
    "Interruption",
    "MemoryDriver",
    "MemoryOptions",
    "MemoryStore",
    "component",
    "interrupt_at",
    "load_capture",
    "save_capture",
]
