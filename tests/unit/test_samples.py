"""What conditions measured: bounded, and begun anew when it is damaged."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from rfs.production.rollback import samples as room
from rfs.production.rollback.conditions import ConditionalRollback, Sample
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.samples import Event, Samples
from rfs.production.rollback.sampling import Sampling


def filled(folder: Path, number: int, name: str = "errors") -> Samples:
    found = Samples(str(folder))
    now = utc_now()
    for n in range(number):
        found.add(name, Sample(at=now + timedelta(seconds=n - number), value=float(n), weight=2))
    return found


def test_it_keeps_the_newest_and_what_is_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "KEPT", 10)
    monkeypatch.setattr(room, "_PRUNED_EVERY", 5)
    found = filled(tmp_path, 3)
    first = found.of("errors")
    found.keep("errors", first[0].at, first[1].at)
    found.close()
    found = Samples(str(tmp_path))
    for n in range(30):
        found.add("errors", Sample(at=utc_now() + timedelta(seconds=n), value=100.0 + n))
    kept = found.of("errors", limit=1000)
    assert len(kept) < 18
    assert kept[0] == first[0]
    assert first[1] not in kept
    assert [each.value for each in kept[-2:]] == [128.0, 129.0]
    assert found.between("errors", first[0].at, first[1].at) == [first[0]]
    found.close()


def test_what_is_of_a_time_after_now_goes(tmp_path: Path) -> None:
    found = filled(tmp_path, 5)
    at = found.of("errors")[2].at - timedelta(milliseconds=1)
    found.add("errors", Sample(at=at, error="down"))
    assert [each.value for each in found.of("errors")] == [0.0, 1.0, None]
    found.close()


def test_one_that_is_torn_while_it_is_used_is_begun_anew(tmp_path: Path) -> None:
    found = filled(tmp_path, 2000)
    found.close()
    path = tmp_path / "conditions.db"
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    found = Samples(str(tmp_path))
    found.add("errors", Sample(at=utc_now(), value=7.0))
    assert [each.value for each in found.of("errors")] == [7.0]
    found.close()


def test_complaints_and_events_outlive_it(tmp_path: Path) -> None:
    found = Samples(str(tmp_path))
    found.complain("errors", "bad")
    event = Event("errors", utc_now(), "alert", "Bad.")
    found.tell(event)
    found.tell(Event("others", utc_now(), "alert", "Bad, too."))
    found.close()
    found = Samples(str(tmp_path))
    assert (found.complaint("errors"), found.complaint("others")) == ("bad", "")
    assert found.events("errors") == [event]
    assert len(found.events()) == 2
    found.complain("errors", "")
    assert found.complaint("errors") == ""
    found.close()


class Hanging:
    """Measures for as long as it is held."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.asked = 0

    def __call__(self) -> Sample:
        self.asked += 1
        at = utc_now()
        self.begun.release()
        self.go.wait(30)
        return Sample(at=at, value=1.0)


def test_what_hangs_is_a_failed_measurement_and_is_not_asked_twice() -> None:
    heard: list[Sample] = []
    often = threading.Event()

    def hear(_: object, sample: Sample) -> None:
        heard.append(sample)
        if len(heard) >= 3:
            often.set()

    hanging = Hanging()
    sampling = Sampling(hear)
    rule = ConditionalRollback("errors", hanging, 1, interval=0.01, timeout=0.01)
    probe = sampling.watch(rule, hanging.go.set)
    sampling.start()
    assert often.wait(30)
    assert {each.error for each in heard} == {"it did not answer within 0.01 s"}
    assert hanging.asked == 1
    sampling.stop()
    assert all(each.value is None for each in probe.samples)


def test_after_a_clock_that_was_set_back_only_what_is_measured_since_counts() -> None:
    heard = threading.Semaphore(0)
    times = iter([utc_now(), utc_now() + timedelta(seconds=30), utc_now() - timedelta(hours=1)])
    sampling = Sampling(lambda *_: heard.release())
    rule = ConditionalRollback("errors", lambda: Sample(at=next(times), value=1.0), 1, interval=1000)
    probe = sampling.watch(rule, lambda: None)
    sampling.start()
    counts = []
    for _ in range(3):
        assert heard.acquire(timeout=30)
        counts.append(len(probe.samples))
        sampling.resume()
    assert counts == [1, 2, 1]
    sampling.stop()


def test_what_raises_is_a_failed_measurement_and_what_was_asked_before_a_pause_does_not_count() -> None:
    heard: list[Sample] = []
    first = threading.Event()

    def hear(_: object, sample: Sample) -> None:
        heard.append(sample)
        first.set()

    def raising() -> Sample:
        raise ZeroDivisionError("no requests")

    sampling = Sampling(hear)
    sampling.watch(ConditionalRollback("raises", raising, 1, interval=1000), lambda: None)
    sampling.start()
    assert first.wait(30)
    assert [each.error for each in heard] == ["ZeroDivisionError: no requests"]
    hanging = Hanging()
    sampling.watch(ConditionalRollback("hangs", hanging, 1, interval=1000, timeout=1000), hanging.go.set)
    assert hanging.begun.acquire(timeout=30)
    sampling.pause()
    first.clear()
    hanging.go.set()
    sampling.resume()
    assert first.wait(30)
    assert hanging.begun.acquire(timeout=30)
    sampling.stop()
    assert sum(each.value == 1.0 for each in heard) <= 1
