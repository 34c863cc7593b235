"""The health of an application in the bake of a change, looked at beside whatever else is watched.

Each check is looked at on a thread of its own: one that takes its time, with retries or because it hangs, delays no
other, nor a condition, a confirmation or a cancellation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread
from typing import TYPE_CHECKING

from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import InterruptedByUserError
from rfs.production.rollback.model import CheckOutcome, HealthReport
from rfs.production.rollback.pulse import Beat

if TYPE_CHECKING:
    from rfs.production.rollback.health import Check

HEALTH_SECONDS = 5.0
"""Between the end of one look at a check and the next."""
# A command that checks is ended at the end, and given this time for it.
_LAST_SECONDS = 2.0
_NAP_SECONDS = 0.1


def health_looks(app: Application) -> list[Callable[[Beat], HealthReport]]:
    """Return what `check_health` does, in parts that may be done beside each other; raises as that does."""
    if type(app).check_health is not Application.check_health:
        return [app.check_health]  # what a program checks itself may count on an order
    from rfs.production.rollback.health import parse_checks, run_checks

    home = app.settings.home

    def look_at(check: Check) -> Callable[[Beat], HealthReport]:
        return lambda beat: run_checks([check], beat, home=home)

    return [look_at(check) for check in parse_checks(app.settings.health, app.settings.path)]


class HealthLooks:
    """Looks at every health check again and again, from now until the end of the block.

    Attributes:
        resting: no look is begun as long as it is set.
    """

    def __init__(self, app: Application) -> None:
        self._beat = Beat()
        self._ended = Event()
        self.resting = False
        looks = health_looks(app) if app.checks_health else []
        self._looks = [_Look(self, each, self._beat, self._ended) for each in looks]

    def __enter__(self) -> HealthLooks:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beat.interrupt()
        until = time.monotonic() + _LAST_SECONDS
        for look in self._looks:
            look.join(max(0.0, until - time.monotonic()))

    def failures(self) -> list[CheckOutcome]:
        """Return the checks that failed when they were last looked at, with the patience of their own retries.

        Raises:
            BaseException: whatever one of them raised.
        """
        for look in self._looks:
            if look.error is not None:
                raise look.error
        return [check for look in self._looks for check in look.report.failures]

    @property
    def busy(self) -> bool:
        """Whether a check is being looked at, or was not yet."""
        return any(look.looking for look in self._looks)


class _Look(Thread):
    """One check being looked at. Nobody waits for it at the end of the program."""

    def __init__(self, looks: HealthLooks, look: Callable[[Beat], HealthReport], beat: Beat, ended: Event) -> None:
        super().__init__(name="rfs health", daemon=True)
        self.report = HealthReport()
        self.error: BaseException | None = None
        self.looking = True
        self._looks = looks
        self._look = look
        self._beat = beat
        self._ended = ended
        self.start()

    def run(self) -> None:
        try:
            while True:
                self.report = self._look(self._beat)
                self.looking = False
                if self._ended.wait(HEALTH_SECONDS):
                    return
                while self._looks.resting:
                    if self._ended.wait(_NAP_SECONDS):
                        return
                self.looking = True
        except InterruptedByUserError:
            return  # at the end of the block
        except BaseException as error:  # raised by `failures`, on the thread of whoever watches
            self.error = error
