"""What the checks of `DriverSuite` stand on: a component, its driver, a store, and ways to treat them."""

from __future__ import annotations

import os
import unittest
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.model import Capture, Component
from rfs.testing.faults import interrupt_at
from rfs.testing.memory import MemoryStore


class World(ABC):
    """One driver with one component and a store in memory; see DriverSuite for what its author writes."""

    ways = 3
    most_interruptions = 60
    secrets: tuple[str, ...] = ()

    driver: Driver
    c: Component
    store: MemoryStore

    # — to be written —

    @abstractmethod
    def make_driver(self) -> Driver:
        """Return the driver under test. Called again wherever a crash would have ended its process."""

    @abstractmethod
    def make_component(self, tmp: Path) -> Component:
        """Make a component with some live state inside the empty folder `tmp`; see rfs.testing.component."""

    @abstractmethod
    def change(self, c: Component, n: int) -> None:
        """Change the live state in the nth way, from whatever it is, to one that differs from it.

        What the driver finds hard belongs here: content, metadata, something added, all of it removed.
        """

    @abstractmethod
    def read(self, c: Component) -> object:
        """Return the live state as something that `==` compares, without the driver's help."""

    # — may be written —

    def set_up(self, c: Component) -> None:
        """Start what the component needs; called once after make_component."""

    def tear_down(self, c: Component) -> None:
        """End what `set_up` started; called also when a check fails."""

    def wreck(self, c: Component) -> None:
        """Break the live state so badly that `capture` refuses it, which `salvage` must not."""

    def driver_after_crash(self) -> Driver:
        """Return the driver as a new process would have it."""
        return self.make_driver()

    # — what the checks stand on —

    @contextmanager
    def _world(self, tmp: Path) -> Iterator[None]:
        self.store = MemoryStore()
        self.driver = self.make_driver()
        self.c = self.make_component(tmp)
        # As rfs does with rfs.toml, before the driver is asked for anything.
        self._equal(self.c.kind, self.driver.kind, "the component is of another kind than the driver")
        msgspec.convert(dict(self.c.options), self.driver.options)
        self.set_up(self.c)
        try:
            yield
        finally:
            self.tear_down(self.c)

    def capture(self, previous: Capture | None = None) -> Capture:
        """Capture the live state into the store."""
        return self.driver.capture(self.c, self.store, previous)

    def bring(self, want: Capture) -> None:
        """Do to the component what a rollback does: stop, restore, verify, start."""
        self._stop()
        self.driver.restore(self.c, self.store, want)
        found = self.driver.verify(self.c, self.store, want)
        self._equal(found, [], "verify finds a difference right after restore")
        self._start(want)

    def _stop(self) -> None:
        if self.driver.runs:
            self.driver.stop(self.c, self.store)

    def _start(self, want: Capture) -> None:
        if self.driver.runs:
            self.driver.start(self.c, self.store, want)

    def _walk(self, want: Capture) -> None:
        self._stop()
        self.driver.stage(self.c, self.store, want)
        self.driver.restore(self.c, self.store, want)
        self._start(want)

    def _interrupt(self, want: Capture, at: int) -> None:
        with interrupt_at(at):
            self._walk(want)
        self.driver = self.driver_after_crash()

    def _interruptions(self, want: Capture) -> list[tuple[int, int]]:
        """Return the places at which to interrupt: (the change that is being undone, which call of its undoing)."""
        places: list[tuple[int, int]] = []
        for n in range(self.ways):
            self.change(self.c, n)
            with interrupt_at(1_000_000) as fault:
                self._walk(want)
            self.driver.release(self.c)
            places += [(n, at) for at in range(1, fault.calls + 1)]
        if not places:
            skip("no call of this restore can be interrupted: see rfs.testing.interrupt_at for what it sees")
        return [places[number - 1] for number in spread(len(places), self.most_interruptions)]

    def _surroundings(self, tmp: Path) -> dict[str, tuple[int, bytes]]:
        """Return what lies in `tmp` outside the component and its work folder."""
        own = [os.fsencode(path) for path in (*self.driver.owns(self.c), self.c.work)]
        found: dict[str, tuple[int, bytes]] = {}
        for folder, folders, files in os.walk(tmp):
            here = os.fsencode(folder)
            if any(here == path or here.startswith(path + b"/") for path in own):
                folders.clear()
                continue
            for name in files:
                path = os.path.join(folder, name)
                if os.fsencode(path) not in own and os.path.isfile(path) and not os.path.islink(path):
                    found[path] = (os.lstat(path).st_mode, Path(path).read_bytes())
            found.update({os.path.join(folder, name): (0, b"") for name in folders})
        return found

    def _check(self, right: bool, text: str) -> None:
        if not right:
            raise AssertionError(text)

    def _equal(self, found: Any, wanted: Any, text: str) -> None:
        if found != wanted:
            message = f"{text}\n   found: {found!r:.2000}\n  wanted: {wanted!r:.2000}"
            raise AssertionError(message)


def skip(reason: str) -> NoReturn:
    """Say loudly that a check could check nothing."""
    raise unittest.SkipTest(reason)


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers 1 … count, evenly spread, both ends among them."""
    if count <= most:
        return list(range(1, count + 1))
    return sorted({1 + (count - 1) * i // max(1, most - 1) for i in range(most)})
