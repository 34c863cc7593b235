"""Is a driver right? Every rule of the plugin page as a check that can fail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from blake3 import blake3

from rfs.production.rollback.errors import IntegrityError, RollbackError, TimedOutError
from rfs.production.rollback.model import Capture, Change, ChangeKind
from rfs.testing.faults import interrupt_at
from rfs.testing.memory import MemoryStore
from rfs.testing.world import World, skip, spread


class DriverSuite(World):
    """Subclass it in a file that pytest collects, write four methods, and every check is a test of the driver.

    Attributes:
        ways: `change` is called with 0 … ways-1.
        most_interruptions: at most so many places are interrupted, evenly spread over all ways.
        secrets: texts that the live state holds, and that no output may; put them where secrets stand.

    A subclass may also override `set_up`, `tear_down`, `wreck` and `driver_after_crash`. A check that cannot apply
    (a component without content has no blobs to damage) is switched off by `test_… = None`, with the reason.
    """

    # — the checks: capture —

    def test_capture_changes_nothing(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            before = self.read(self.c)
            self.capture()
            self._equal(self.read(self.c), before, "capture changed the live state")

    def test_capture_is_complete_in_its_references(self, tmp_path: Path) -> None:
        """Prune keeps only what the parts refer to."""
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            kept = {ref for part in want.parts for ref in self.store.parts[part][0]}
            self.store.blobs = {blob: data for blob, data in self.store.blobs.items() if blob in kept}
            self.change(self.c, 0)
            self.bring(want)
            self._equal(self.read(self.c), state, "restore was not exact after a prune")

    def test_capture_of_an_unchanged_state_stores_nothing(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            first = self.capture()
            stored = len(self.store.blobs)
            second = self.capture(first)
            self._equal(second.fingerprint.digest, first.fingerprint.digest, "the second capture's digest differs")
            self._equal(len(self.store.blobs), stored, "capturing an unchanged state stored new blobs")

    def test_capture_with_a_previous_one_is_exact(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            previous = self.capture()
            for n in range(self.ways):
                self.change(self.c, n)
                previous, state = self.capture(previous), self.read(self.c)
                self.change(self.c, (n + 1) % self.ways)
                self.bring(previous)
                self._equal(self.read(self.c), state, f"restoring an incremental capture of change {n} was not exact")

    def test_capture_that_runs_out_of_time_is_no_capture(self, tmp_path: Path) -> None:
        """Half a state that was taken for the whole would be restored one day."""
        with self._world(tmp_path):
            before = self.read(self.c)
            self.store.ticks = 0
            whole = self.capture()
            ticks = self.store.ticks
            if not ticks:
                skip("this capture never ticks")
            for at in spread(ticks, self.most_interruptions):
                self.store = MemoryStore()
                self.store.time_out_at = at
                try:
                    self.capture()
                except TimedOutError:
                    pass
                else:
                    self._check(
                        self.store.ticks < at, f"capture went on although tick {at} said that its time was over"
                    )
                self.store.time_out_at = None
                self._equal(
                    self.read(self.c), before, f"a capture that was stopped at tick {at} changed the live state"
                )
            self._equal(
                self.capture().fingerprint.digest, whole.fingerprint.digest, "the next capture has another digest"
            )

    def test_what_capture_refuses_is_salvaged_and_mended(self, tmp_path: Path) -> None:
        """A broken component must not stand in the way of the rollback that mends it."""
        if type(self).wreck is World.wreck:
            skip("the suite wrecks nothing")
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            self.wreck(self.c)
            try:
                self.capture(want)
            except RollbackError:
                pass
            else:
                self._check(False, "capture took a wreck for a state")
            wrecked = self.driver.salvage(self.c, self.store, want)
            self.bring(want)
            self._equal(self.read(self.c), state, "the wreck was not mended")
            self.bring(wrecked)  # the way back leads to it, too
            self.bring(want)
            self._equal(self.read(self.c), state, "the wreck that was brought back was not mended")

    # — fingerprint, changes —

    def test_fingerprint_is_equal_only_for_equal_states(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            seen: list[tuple[object, str]] = []
            for n in range(-1, self.ways):
                if n >= 0:
                    self.change(self.c, n)
                capture, state = self.capture(), self.read(self.c)
                for rehash in (True, False):
                    live = self.driver.fingerprint(self.c, rehash=rehash)
                    self._equal(live.digest, capture.fingerprint.digest, f"fingerprint(rehash={rehash}) differs")
                for other, digest in seen:
                    equal = digest == capture.fingerprint.digest
                    self._equal(equal, other == state, "equal digests and equal states do not go together")
                seen.append((state, capture.fingerprint.digest))

    def test_changes_are_sorted_consistent_and_antisymmetric(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            a = self.capture()
            for n in range(self.ways):
                self.change(self.c, n)
                b = self.capture()
                there = list(self.driver.changes(self.c, self.store, a, b))
                back = list(self.driver.changes(self.c, self.store, b, a))
                live = list(self.driver.changes(self.c, self.store, a, None))
                differ = a.fingerprint.digest != b.fingerprint.digest
                self._equal(bool(there), differ, f"changes and fingerprints disagree after change {n}")
                self._check_changes(there)
                turned = _ordered(_turned(change) for change in back)
                self._equal(turned, _ordered(there), "changes(b, a) is not changes(a, b) turned")
                self._equal(_shape(live), _shape(there), "changes(a, None) is not changes(a, b) while b is live")
                self._equal(list(self.driver.changes(self.c, self.store, b, b)), [], "changes(b, b) is not empty")
                a = b

    def _check_changes(self, changes: Sequence[Change]) -> None:
        self._equal(_keys(changes), sorted(_keys(changes)), "changes are not sorted by key")
        self._equal(len(set(_shape(changes))), len(changes), "a key stands twice in changes, with the same kind")
        for change in changes:
            self._equal(change.component, self.c.name, "a change names another component")
            sides = (change.before is not None, change.after is not None)
            wanted = {ChangeKind.ADDED: (False, True), ChangeKind.REMOVED: (True, False)}.get(change.kind, (True, True))
            self._equal(sides, wanted, f"a change of kind {change.kind} has the wrong sides")

    def test_losses_are_well_formed(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            want = self.capture()
            self.change(self.c, 0)
            changes = list(self.driver.changes(self.c, self.store, want, None))
            before = self.read(self.c)
            for loss in self.driver.losses(self.c, self.store, want, changes):
                self._equal(loss.component, self.c.name, "a loss names another component")
                self._check(loss.count is None or loss.count > 0, f"a loss of nothing: {loss}")
            self._equal(self.read(self.c), before, "losses changed the live state")

    def test_nothing_secret_is_said(self, tmp_path: Path) -> None:
        """Changes, losses, findings and warnings are printed, logged and kept in the clear."""
        if not self.secrets:
            skip("the suite names no secrets")
        with self._world(tmp_path):
            captures = [self.capture()]
            for n in range(self.ways):
                self.change(self.c, n)
                captures.append(self.capture())
                want = captures[n]
                changes = list(self.driver.changes(self.c, self.store, want, None))
                verified = self.driver.verify(self.c, self.store, want)
                losses = list(self.driver.losses(self.c, self.store, want, changes))
                caveats = list(self.driver.caveats(self.c, want, changes))
                doctor = list(self.driver.examine(self.c))
                said = repr((changes, verified, losses, caveats, captures[-1].warnings, doctor))
                for secret in self.secrets:
                    self._check(secret not in said, f"a secret is shown after change {n}: {said:.2000}")
                    self._check(not any(d in said for d in _digests(secret)), "a digest of a secret lets it be guessed")

    def test_examine_changes_nothing_and_finds_no_error_in_a_sound_component(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            before = self.read(self.c)
            errors = [finding for finding in self.driver.examine(self.c) if finding.level == "error"]
            self._equal(errors, [], "examine reports an error")
            self._equal(self.read(self.c), before, "examine changed the live state")

    # — restore —

    def test_restore_is_exact_from_and_to_every_state(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            states = [(self.capture(), self.read(self.c))]
            for n in range(self.ways):
                self.change(self.c, n)
                states.append((self.capture(), self.read(self.c)))
            for want, state in [*states, *states[::-1], *states[::2]]:
                self.bring(want)
                self._equal(self.read(self.c), state, "restore was not exact")

    def test_restore_is_exact_while_everything_stands_still(self, tmp_path: Path) -> None:
        """In a rollback a capture comes after the stop, and tells restore that it need not look again."""
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            for n in range(self.ways):
                self.change(self.c, n)
                self._stop()
                if not self.driver.runs:  # of what runs, the engine takes no capture after the stop
                    self.capture()
                    self.store.still = True
                self.driver.stage(self.c, self.store, want)
                self.driver.restore(self.c, self.store, want)
                self._equal(self.driver.verify(self.c, self.store, want), [], "verify finds a difference")
                self.store.still = False
                self._start(want)
                self._equal(self.read(self.c), state, "restore was not exact although nothing moved")

    def test_restore_is_idempotent(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            self.change(self.c, 0)
            self.bring(want)
            self._stop()
            again = self.driver.restore(self.c, self.store, want)
            self._start(want)
            self._equal(again.changed, 0, "a second restore says it changed something")
            self._equal(self.read(self.c), state, "a second restore changed the state")

    def test_restore_from_a_stored_capture(self, tmp_path: Path) -> None:
        """What a restore needs to know must be in the record, not in the driver's memory."""
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            stored = msgspec.json.decode(msgspec.json.encode(want), type=Capture)
            self._equal(stored, want, "the capture is not equal after it was stored as JSON")
            self.change(self.c, 0)
            self.driver = self.driver_after_crash()
            self.bring(stored)
            self._equal(self.read(self.c), state, "restore in a new process was not exact")

    def test_restore_converges_after_it_was_interrupted(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            for n, at in self._interruptions(want):
                self.change(self.c, n)
                self._interrupt(want, at)
                self.bring(want)
                place = f"call {at} of undoing change {n}"
                self._equal(self.read(self.c), state, f"restore did not converge after an interruption at {place}")

    def test_restore_turns_back_after_it_was_interrupted(self, tmp_path: Path) -> None:
        """The way back: half restored to one state, then restored to another."""
        with self._world(tmp_path):
            want = self.capture()
            for n, at in self._interruptions(want):
                place = f"call {at} of undoing change {n}"
                self.change(self.c, n)
                other, state, before = self.capture(), self.read(self.c), self._surroundings(tmp_path)
                self._interrupt(want, at)
                self.bring(other)
                self.driver.release(self.c)
                self._equal(self.read(self.c), state, f"the way back was not exact after an interruption at {place}")
                self._equal(self._surroundings(tmp_path), before, f"an interruption at {place} left something behind")
                self.bring(want)
                self.driver.release(self.c)

    def test_restore_is_exact_after_its_time_ran_out(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            self.change(self.c, 0)
            self.store.ticks = 0
            self.bring(want)
            ticks = self.store.ticks
            if not ticks:
                skip("this restore never ticks")
            for at in spread(ticks, self.most_interruptions):
                self.change(self.c, at % self.ways)
                self._stop()
                self.store.ticks, self.store.time_out_at = 0, at
                try:
                    self.driver.stage(self.c, self.store, want)
                    self.driver.restore(self.c, self.store, want)
                except TimedOutError:
                    timed_out = True
                else:
                    timed_out = self.store.ticks < at
                self.store.time_out_at = None
                self._check(timed_out, f"restore went on although tick {at} said that its time was over")
                self.bring(want)
                self._equal(self.read(self.c), state, f"restore was not exact after its time ran out at tick {at}")

    def test_restore_refuses_damaged_blobs_before_it_changes_anything(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            needed = {ref for part in want.parts for ref in self.store.parts[part][0]}
            self._check(bool(needed), "the capture refers to no blobs")
            refused = 0
            for n in range(self.ways):
                self.change(self.c, n)
                for blob in sorted(needed):
                    refused += self._refuses(want, blob)
                self.bring(want)
                self._equal(self.read(self.c), state, "restore was not exact once the store was whole again")
            self._check(refused > 0, "restore noticed none of the damaged blobs")

    def _refuses(self, want: Capture, blob: bytes) -> bool:
        """Tell whether restore refused; if not, it needed nothing of the damaged blob and must be exact."""
        whole = self.store.blobs[blob]
        self.store.blobs[blob] = bytes([whole[0] ^ 1]) + whole[1:] if whole else b"?"
        self._stop()
        before = self.read(self.c)
        try:
            self.driver.restore(self.c, self.store, want)
        except IntegrityError:
            self._equal(self.read(self.c), before, "restore had changed something before it refused a damaged blob")
            return True
        else:
            self._equal(self.driver.verify(self.c, self._whole(blob, whole), want), [], "a damaged blob was restored")
            return False
        finally:
            self.store.blobs[blob] = whole

    def _whole(self, blob: bytes, data: bytes) -> MemoryStore:
        self.store.blobs[blob] = data
        return self.store

    # — stage, release, verify, and what may be repeated —

    def test_stage_changes_nothing_live_and_may_be_repeated(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            self.change(self.c, 0)
            before = self.read(self.c)
            for _ in range(2):
                self.driver.stage(self.c, self.store, want)
                self._equal(self.read(self.c), before, "stage changed the live state")
            self.bring(want)
            self._equal(self.read(self.c), state, "restore after stage was not exact")

    def test_restore_is_exact_when_the_state_changed_after_staging(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            for n in range(self.ways):
                self.driver.stage(self.c, self.store, want)
                self.change(self.c, n)
                self.bring(want)
                self._equal(self.read(self.c), state, "restore trusted what was true when it staged")

    def test_release_leaves_nothing_behind_and_may_be_repeated(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            before = self._surroundings(tmp_path)
            self.driver.release(self.c)
            self.change(self.c, 0)
            self.driver.stage(self.c, self.store, want)
            self.bring(want)
            for _ in range(2):
                self.driver.release(self.c)
                self._equal(self.read(self.c), state, "release changed the live state")
            self._equal(self._surroundings(tmp_path), before, "something was left or changed outside the component")

    def test_verify_is_empty_only_when_it_is_equal(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            want = self.capture()
            for n in range(self.ways):
                self._equal(self.driver.verify(self.c, self.store, want), [], "verify finds a difference in equality")
                self.change(self.c, n)
                if not self.driver.runs:  # what runs is not yet so when verify is asked
                    self._check(bool(self.driver.verify(self.c, self.store, want)), f"verify misses change {n}")
                self.bring(want)

    def test_quiesce_and_resume_may_be_repeated(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            before = self.read(self.c)
            self.driver.resume(self.c)
            for _ in range(2):
                self.driver.quiesce(self.c)
            held = self.capture()
            for _ in range(2):
                self.driver.resume(self.c)
            self._equal(self.read(self.c), before, "quiesce and resume changed the live state")
            self._equal(self.capture().fingerprint.digest, held.fingerprint.digest, "the held state has another digest")

    def test_resume_lets_the_writers_go_also_in_a_new_process(self, tmp_path: Path) -> None:
        """A checkpoint that was killed must not leave the application standing still."""
        with self._world(tmp_path):
            before = self.read(self.c)
            self.driver.quiesce(self.c)
            self.driver = self.driver_after_crash()
            self.driver.resume(self.c)
            self.change(self.c, 0)
            self._check(self.read(self.c) != before, "after resume the component cannot be changed")

    def test_stop_and_start_may_be_repeated(self, tmp_path: Path) -> None:
        with self._world(tmp_path):
            want, state = self.capture(), self.read(self.c)
            for _ in range(2):
                self.driver.stop(self.c, self.store)
            with interrupt_at(1_000_000) as fault:
                self.driver.start(self.c, self.store, want)
            self.driver.start(self.c, self.store, want)
            self._equal(self.read(self.c), state, "stop and start did not come back to the captured state")
            for at in spread(fault.calls, self.most_interruptions):
                self.driver.stop(self.c, self.store)
                with interrupt_at(at):
                    self.driver.start(self.c, self.store, want)
                self.driver = self.driver_after_crash()
                self.driver.start(self.c, self.store, want)
                self._equal(self.read(self.c), state, f"start did not finish what was interrupted at call {at}")

    def test_options_refuse_unknown_keys(self) -> None:
        driver = self.make_driver()
        self._check(bool(driver.kind), "the driver has no kind")
        strict = driver.options.__struct_config__.forbid_unknown_fields
        self._check(strict, "the options accept unknown keys; declare them with forbid_unknown_fields=True")


def _digests(secret: str) -> Iterator[str]:
    for text in (secret, json.dumps(secret)):
        for name in ("md5", "sha1", "sha256", "sha512", "blake2b"):
            yield hashlib.new(name, text.encode(), usedforsecurity=False).hexdigest()
        yield blake3(text.encode()).hexdigest()


def _keys(changes: Sequence[Change]) -> list[str]:
    return [change.key for change in changes]


def _shape(changes: Sequence[Change]) -> list[tuple[str, ChangeKind]]:
    return [(change.key, change.kind) for change in changes]


def _ordered(changes: Iterable[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: (change.key, change.kind))


def _turned(change: Change) -> Change:
    kinds = {ChangeKind.ADDED: ChangeKind.REMOVED, ChangeKind.REMOVED: ChangeKind.ADDED}
    return Change(
        change.component, kinds.get(change.kind, change.kind), change.key, before=change.after, after=change.before
    )
