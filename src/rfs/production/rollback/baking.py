"""The configured conditions in the bake of a guarded deployment: measured before the change, and after it.

They are measured on threads of their own, so whoever watches the change never waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

from rfs.production.rollback.application import Application
from rfs.production.rollback.conditional import Opened, open_conditions
from rfs.production.rollback.conditions import FEWEST, ConditionalRollback, Outcome, Sample
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.judging import Ground, ground_of, judge, unbroken
from rfs.production.rollback.lock import holder
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.samples import Samples
from rfs.production.rollback.sampling import Probe, Sampling
from rfs.production.rollback.scheduled import lock_path

# How often is measured while the change is waited for: something to compare with is needed soon.
_PACE_SECONDS = 0.5
_NAP_SECONDS = 0.05


@contextmanager
def bake_conditions(
    app: Application, tell: Callable[[str], None], rules: Sequence[ConditionalRollback] = ()
) -> Iterator[BakeConditions | None]:
    """Measure the conditions of rfs.toml, and these, from now on; yields None where there are none.

    Raises:
        UsageError: `[[conditions]]` is wrong, what one needs is not installed, or two have one name.
    """
    if not app.settings.conditions and not rules:
        yield None
        return
    found = BakeConditions(app, tell, rules)
    try:
        yield found
    finally:
        found.close()


class BakeConditions:
    """See `bake_conditions`."""

    def __init__(self, app: Application, tell: Callable[[str], None], rules: Sequence[ConditionalRollback]) -> None:
        self._app = app
        self._tell = tell
        self._since: datetime | None = None
        self._ground = Ground()
        self._judged: dict[str, int] = {}
        self._spoke: set[str] = set()
        self._alerts: dict[str, str] = {}
        self._samples = Samples(app.settings.store.path)
        # The daemon keeps what it measures itself; both together would count everything twice.
        self._keeps = not holder(lock_path(app.settings))
        self._given = {each.name for each in rules}
        self._sampling = Sampling(self._heard)
        try:
            for each in open_conditions(app.settings):
                self._watch(each, unbroken(self._samples.of(each.rule.name), each.rule, utc_now()))
            for rule in rules:
                if any(each.rule.name == rule.name for each in self._sampling.probes):
                    raise UsageError("usage", what=f"Two conditions are called {rule.name}", hint="Give each its own.")
                self._watch(Opened(rule, _nothing), ())
        except BaseException:  # what was opened already must not stay so
            self._sampling.stop()
            self._samples.close()
            raise

    def _watch(self, opened: Opened, earlier: Sequence[Sample]) -> None:
        rule = opened.rule
        self._sampling.watch(rule, opened.close, earlier).pace = min(rule.interval, _PACE_SECONDS)

    def start(self) -> None:
        """Begin to measure."""
        self._sampling.start()

    def pause(self) -> None:
        """Begin no measurement any more: it goes back, and must not be disturbed."""
        self._sampling.pause()

    def close(self) -> None:
        self._sampling.stop()
        self._samples.close()

    def _heard(self, probe: Probe, sample: Sample) -> None:
        if probe.measured >= 2 * FEWEST:  # a checkpoint may take long
            probe.pace = probe.rule.interval
        if self._keeps and probe.rule.name not in self._given:
            # The history is for people to look at; a full disk must not end the bake.
            with suppress(RollbackError):
                self._samples.add(probe.rule.name, sample)

    def compare(self) -> None:
        """Wait until there is something that what comes after the change can be compared with; measure no more.

        What cannot be measured is not waited for.
        """
        self._ground = ground_of(self._app, utc_now(), [each.rule for each in self._sampling.probes])
        told = False
        while any(self._lacks(each) for each in self._sampling.probes):
            if not told:
                self._tell("Measuring the conditions before the change.")
                told = True
            self._app.beat.tick()
            time.sleep(_NAP_SECONDS)  # a tick must be heard soon, and nothing tells of one
        self._sampling.pause()
        now = utc_now()
        self._before = {each.rule.name: self._compared(each, now) for each in self._sampling.probes}

    def _lacks(self, probe: Probe) -> bool:
        """Tell whether one is worth waiting for."""
        wanted = FEWEST if probe.rule.baseline else 1
        samples = self._compared(probe, utc_now())
        values = sum(each.measured is not None for each in samples)
        silent = probe.measured >= wanted or (samples and samples[-1].measured is None and probe.measured > 0)
        return values < wanted and not silent

    def _compared(self, probe: Probe, now: datetime) -> list[Sample]:
        ground = Ground(self._ground.live_since, now, now)
        since, until = ground.compared(probe.rule) or (now, now)
        return [each for each in probe.samples if since <= each.at < until]

    def begin(self) -> None:
        """Measure again: the change is made."""
        self._since = utc_now()
        for each in self._sampling.probes:
            each.pace = each.rule.interval
        self._sampling.resume()

    def tripped(self, _: datetime) -> str | None:
        """See guarding.Watch."""
        since = self._since
        if since is None:
            return None
        for probe in self._sampling.probes:
            rule = probe.rule
            if self._judged.get(rule.name) == probe.measured:
                continue
            self._judged[rule.name] = probe.measured
            # After a clock that was set back there are none but those since then.
            samples = [each for each in probe.samples if each.at >= since or since > utc_now()]
            if any(each.measured is not None for each in samples):
                self._spoke.add(rule.name)
            ground = Ground(changing=since, changed=since)
            verdict = judge(rule, self._before[rule.name], samples, ground, utc_now())
            failed = verdict.outcome is Outcome.FAILURE
            if failed and rule.action == "rollback" and not rule.dry_run:
                return verdict.why
            if failed or verdict.alert:
                self._alerts[rule.name] = verdict.why
        return None

    @property
    def warnings(self) -> list[str]:
        """What is not well with a change that was kept, in sentences."""
        return [f"{why[:1].upper()}{why[1:]}." for why in self._alerts.values()]

    @property
    def notes(self) -> list[str]:
        """What a person should know besides, in sentences."""
        silent = [each.rule.name for each in self._sampling.probes if each.rule.name not in self._spoke]
        return [f"{', '.join(silent)}: nothing was measured in the bake, so that was not judged."] * bool(silent)


def _nothing() -> None:
    """There is nothing to let go of."""
