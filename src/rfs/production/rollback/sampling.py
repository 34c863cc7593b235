"""Measures conditions again and again, each in threads of its own: one that hangs delays nothing and nobody."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import Event, Lock, Thread

from rfs.production.rollback.conditions import ConditionalRollback, Sample
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.samples import KEPT

# What is being measured is let go on for so long at the end, so that it can end what it started.
_LAST_SECONDS = 2.0
# What measures keeps its time itself; this is for one that does not.
_GRACE_SECONDS = 0.5


class Probe:
    """One condition, with at most one measurement under way.

    Args:
        rule: its `condition` measures: it returns a Sample in about `rule.timeout` seconds; when it
            takes longer, that is a failed measurement, and the next begins when it has returned.
        close: lets go of what it measures with.
        earlier: what it measured before, oldest first.
        answered: called from the thread that measures when it has.
    """

    def __init__(
        self,
        rule: ConditionalRollback,
        close: Callable[[], None],
        earlier: Iterable[Sample],
        answered: Callable[[], None],
    ) -> None:
        self.rule = rule
        self.close = close
        self.pace = rule.interval
        self.measured = 0
        self._answered = answered
        self._samples = deque(earlier, maxlen=KEPT)
        self._lock = Lock()
        self._due = 0.0
        self._late = 0.0
        self._asked: _Asked | None = None

    @property
    def samples(self) -> list[Sample]:
        """What was measured, oldest first."""
        with self._lock:
            return list(self._samples)

    def due_now(self) -> None:
        """Measure as soon as can be. What is being measured at this moment does not count."""
        with self._lock:
            if self._asked is not None:
                self._asked.counts = False
            self._due = 0.0

    def poll(self, now: float, *, begin: bool) -> Sample | None:
        """Begin to measure when it is due; return what was measured, once. Never waits.

        Args:
            now: seconds of a clock that nobody sets.
            begin: whether another measurement may begin.
        """
        sample = self._collected(now)
        if sample is not None:
            with self._lock:
                # After a clock that was set back nobody can tell what was measured when.
                if self._samples and self._samples[-1].at >= sample.at:
                    self._samples.clear()
                self._samples.append(sample)
                self.measured += 1
        with self._lock:
            if begin and self._asked is None and now >= self._due:
                self._due = now + self.pace
                self._late = now + self.rule.timeout + _GRACE_SECONDS
                self._asked = _Asked(self.rule, self._answered)
        return sample

    def next(self, *, begin: bool) -> float:
        """Return when `poll` has something to do again, unless it is answered before."""
        if self._asked is not None:
            return self._late
        return self._due if begin else math.inf

    def wait(self, seconds: float) -> None:
        """Wait for what is being measured."""
        if self._asked is not None:
            self._asked.join(seconds)

    def _collected(self, now: float) -> Sample | None:
        under_way = self._asked
        if under_way is None:
            return None
        if under_way.answer is not None:
            self._asked = None
            return under_way.answer if under_way.counts else None
        if now < self._late:
            return None
        self._late = now + self.pace
        under_way.counts = False
        return Sample(at=utc_now(), error=f"it did not answer within {self.rule.timeout:g} s")


class _Asked(Thread):
    """One measurement. Nobody waits for it at the end of the program."""

    def __init__(self, rule: ConditionalRollback, answered: Callable[[], None]) -> None:
        super().__init__(name=f"rfs {rule.name}", daemon=True)
        self.answer: Sample | None = None
        self.counts = True
        self._rule = rule
        self._answered = answered
        self.start()

    def run(self) -> None:
        self.answer = asked(self._rule)
        self._answered()


def asked(rule: ConditionalRollback) -> Sample:
    """Return what a condition measures that returns a Sample; whatever else it does is one that failed."""
    began = utc_now()
    try:
        found = rule.condition()
    except Exception as error:  # whatever the world answers must not end the daemon, or a deployment
        return Sample(at=began, error=f"{type(error).__name__}: {error}")
    return found if isinstance(found, Sample) else Sample(at=began, error=f"{type(found).__name__} is no sample")


class Sampling:
    """The conditions that are being measured.

    Args:
        heard: called for each sample, from the thread that looks after them all.
    """

    def __init__(self, heard: Callable[[Probe, Sample], None]) -> None:
        self._heard = heard
        self._probes: dict[str, Probe] = {}
        self._lock = Lock()
        self._stirred = Event()
        self._stopped = False
        self._paused = False
        self._bug: BaseException | None = None
        self._thread = Thread(target=self._run, name="rfs conditions", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Measure no more, and let go of everything. What hangs is left behind after a moment."""
        self._stopped = True
        self._stirred.set()
        if self._thread.is_alive():
            self._thread.join()
        self._end(self._taken(list(self._probes)))

    def watch(self, rule: ConditionalRollback, close: Callable[[], None], earlier: Iterable[Sample] = ()) -> Probe:
        """Measure a condition from now on; see Probe."""
        probe = Probe(rule, close, earlier, self._stirred.set)
        with self._lock:
            self._probes[rule.name] = probe
        self._stirred.set()
        return probe

    def forget(self, names: Iterable[str]) -> None:
        """Measure these conditions no more."""
        self._end(self._taken(names))

    def _taken(self, names: Iterable[str]) -> list[Probe]:
        with self._lock:
            return [self._probes.pop(name) for name in names]

    def _end(self, probes: Sequence[Probe]) -> None:
        for probe in probes:
            probe.close()
        until = time.monotonic() + _LAST_SECONDS
        for probe in probes:
            probe.wait(max(0.0, until - time.monotonic()))

    @property
    def probes(self) -> list[Probe]:
        """Those that are measured.

        Raises:
            BaseException: whatever a bug in measuring, or in what was told of it, raised.
        """
        if self._bug is not None:
            raise self._bug
        return self._all()

    def _all(self) -> list[Probe]:
        with self._lock:
            return list(self._probes.values())

    def pause(self) -> None:
        """Begin no measurement until `resume`; what is under way does not count."""
        self._paused = True
        for probe in self._all():
            probe.due_now()

    def resume(self) -> None:
        """Measure everything now, and go on."""
        self._paused = False
        for probe in self._all():
            probe.due_now()
        self._stirred.set()

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._stirred.clear()
                begin = not self._paused
                probes = self._all()
                for probe in probes:
                    sample = probe.poll(time.monotonic(), begin=begin)
                    if sample is not None:
                        self._heard(probe, sample)
                until = min([each.next(begin=begin) for each in probes], default=math.inf)
                left = until - time.monotonic()
                self._stirred.wait(max(0.0, left) if left != math.inf else None)
        except BaseException as error:  # raised by `probes`, on the thread of whoever measures
            self._bug = error
