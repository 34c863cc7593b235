"""A right driver of a folder of plain files, and drivers that are each wrong in one way."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSink, BlobSource, Driver, Finding, Pulse
from rfs.production.rollback.errors import IntegrityError, TimedOutError
from rfs.production.rollback.model import (
    Capture,
    Change,
    ChangeKind,
    Component,
    Fingerprint,
    Loss,
    Ref,
    Restored,
)
from rfs.testing import MemoryDriver


class FolderOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str


class FolderDriver(Driver):
    """A folder of plain files, by name and content. Right, and too simple for real use."""

    kind = "folder"
    options = FolderOptions

    def where(self, c: Component) -> Path:
        return Path(c.home) / str(c.options["path"])

    def live(self, c: Component) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.where(c).iterdir())}

    def owns(self, c: Component) -> tuple[str, ...]:
        return (str(self.where(c)),)

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        files = self.live(c)
        refs = [sink.put(data) for data in files.values()]
        part = sink.put_part(refs, json.dumps(list(files)).encode())
        return Capture(component=c.name, kind=self.kind, fingerprint=self.identify(files), parts=(part,))

    def identify(self, files: dict[str, bytes]) -> Fingerprint:
        text = json.dumps([(name, data.hex()) for name, data in sorted(files.items())]).encode()
        return Fingerprint(blake3(text).hexdigest(), len(files), sum(map(len, files.values())))

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        return self.identify(self.live(c))

    def wanted(self, source: BlobSource, want: Capture) -> dict[str, bytes]:
        refs, body = source.get_part(want.parts[0])
        return {name: source.get(ref) for name, ref in zip(json.loads(body), refs, strict=True)}

    def staging(self, c: Component) -> Path:
        return self.where(c).with_name(".staging")

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        wanted, live = self.wanted(source, want), self.live(c)
        changed = 0
        self.staging(c).mkdir(exist_ok=True)
        for name in sorted(wanted.keys() | live.keys()):
            source.tick(1)
            if wanted.get(name) != live.get(name):
                self.put(c, name, wanted.get(name))
                changed += 1
        return Restored(changed)

    def put(self, c: Component, name: str, data: bytes | None) -> None:
        path = self.where(c) / name
        if data is None:
            os.unlink(path)
            return
        fresh = self.staging(c) / name
        fresh.write_bytes(data)
        os.rename(fresh, path)

    def release(self, c: Component) -> None:
        if self.staging(c).exists():
            for path in self.staging(c).iterdir():
                path.unlink()
            self.staging(c).rmdir()

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        before = self.wanted(source, a)
        after = self.wanted(source, b) if b is not None else self.live(c)
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                refs = [self.ref(source, files.get(name)) for files in (before, after)]
                yield self.change(c, name, *refs)

    def change(self, c: Component, name: str, before: Ref | None, after: Ref | None) -> Change:
        kind = ChangeKind.ADDED if before is None else ChangeKind.REMOVED if after is None else ChangeKind.CHANGED
        return Change(c.name, kind, name, before, after)

    def ref(self, source: BlobSource, data: bytes | None) -> Ref | None:
        return None if data is None else Ref(source.identify(data).hex(), len(data))


# — each wrong in one way; the suite's check that must notice it is named in test_suite_catches —


class CaptureTouches(FolderDriver):
    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        captured = super().capture(c, sink, previous)
        (self.where(c) / ".captured").touch()
        return captured


class ForgetsReferences(FolderDriver):
    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        files = self.live(c)
        refs = [sink.put(data).hex() for data in files.values()]
        part = sink.put_part([], json.dumps(dict(zip(files, refs, strict=True))).encode())
        return Capture(component=c.name, kind=self.kind, fingerprint=self.identify(files), parts=(part,))

    def wanted(self, source: BlobSource, want: Capture) -> dict[str, bytes]:
        _, body = source.get_part(want.parts[0])
        return {name: source.get(bytes.fromhex(blob)) for name, blob in json.loads(body).items()}


class StoresTheTime(FolderDriver):
    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        sink.put(str(time.time_ns()).encode())
        return super().capture(c, sink, previous)


class TrustsThePrevious(FolderDriver):
    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        return previous if previous is not None else super().capture(c, sink, previous)


class CapturesHalf(FolderDriver):
    """Takes the end of its time for the end of the folder."""

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        files = {}
        for name, data in self.live(c).items():
            try:
                sink.tick(1)
            except TimedOutError:
                break
            files[name] = data
        part = sink.put_part([sink.put(data) for data in files.values()], json.dumps(list(files)).encode())
        return Capture(component=c.name, kind=self.kind, fingerprint=self.identify(files), parts=(part,))


class SalvagesNothing(MemoryDriver):
    """Nothing at all is a wreck to it, also when it should be recorded as it is."""

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        if self.value is None:
            raise IntegrityError("path.missing", component=c.name, path="its value")
        return super().capture(c, sink, previous)


class SalvagesAll(SalvagesNothing):
    """Right."""

    def salvage(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        return MemoryDriver.capture(self, c, sink, previous)


class TakesWrecks(SalvagesAll):
    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        return self.salvage(c, sink, previous)


class FingerprintOfNames(FolderDriver):
    def identify(self, files: dict[str, bytes]) -> Fingerprint:
        return super().identify(dict.fromkeys(files, b""))


class FingerprintOfTimes(FolderDriver):
    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        return Fingerprint(str(self.where(c).stat().st_mtime_ns))


class ChangesUnsorted(FolderDriver):
    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        yield from list(super().changes(c, source, a, b))[::-1]


class ChangesOnlyAdd(FolderDriver):
    def change(self, c: Component, name: str, before: Ref | None, after: Ref | None) -> Change:
        return Change(c.name, ChangeKind.ADDED, name, None, after or before)


class ChangesIgnoreLive(FolderDriver):
    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        if b is not None:
            yield from super().changes(c, source, a, b)


class ShowsValues(FolderDriver):
    def ref(self, source: BlobSource, data: bytes | None) -> Ref | None:
        return None if data is None else Ref(source.identify(data).hex(), len(data), label=data.decode())


class ShowsDigests(FolderDriver):
    def ref(self, source: BlobSource, data: bytes | None) -> Ref | None:
        return None if data is None else Ref(hashlib.sha256(data).hexdigest(), len(data))


class LosesNothing(FolderDriver):
    def losses(self, c: Component, source: BlobSource, want: Capture, changes: Sequence[Change]) -> Iterator[Loss]:
        yield Loss(c.name, "files", 0)


class ExaminesWrongly(FolderDriver):
    def examine(self, c: Component) -> Iterator[Finding]:
        yield Finding("error", "It is there.", "Remove it.")


class LeavesExtras(FolderDriver):
    def put(self, c: Component, name: str, data: bytes | None) -> None:
        if data is not None:
            super().put(c, name, data)

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        return []


class HashesByItself(FolderDriver):
    """Computes the ids of blobs in its own way, and so finds that none of the live content is the wanted one."""

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        live = {blake3(data).digest() for data in self.live(c).values()}
        refs, _ = source.get_part(want.parts[0])
        super().restore(c, source, want)
        return Restored(len(set(refs) - live))


class StillIsNothingToDo(FolderDriver):
    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        return Restored() if source.still else super().restore(c, source, want)

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        return []


class RestoresAlways(FolderDriver):
    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        super().restore(c, source, want)
        return Restored(1)


class RemembersInMemory(FolderDriver):
    def __init__(self) -> None:
        self.kept: dict[str, dict[str, bytes]] = {}

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        captured = super().capture(c, sink, previous)
        self.kept[captured.fingerprint.digest] = self.live(c)
        return captured

    def wanted(self, source: BlobSource, want: Capture) -> dict[str, bytes]:
        super().wanted(source, want)
        return self.kept.get(want.fingerprint.digest, {})


class ResumesBlindly(FolderDriver):
    """Believes its own note of what is done, also when the state was changed since."""

    def put(self, c: Component, name: str, data: bytes | None) -> None:
        marks = Path(c.work) / "done"
        known = marks.read_text().split() if marks.exists() else []
        if name in known:
            return
        marks.write_text(" ".join([*known, name]))
        super().put(c, name, data)

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        restored = super().restore(c, source, want)
        (Path(c.work) / "done").unlink(missing_ok=True)
        return restored


class SwallowsTheTime(FolderDriver):
    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        try:
            return super().restore(c, source, want)
        except TimedOutError:
            return Restored(1)


class FetchesLate(FolderDriver):
    """Fetches each blob when it is needed, after others were restored already."""

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        refs, body = source.get_part(want.parts[0])
        wanted, live = dict(zip(json.loads(body), refs, strict=True)), self.live(c)
        self.staging(c).mkdir(exist_ok=True)
        for name in sorted(wanted.keys() | live.keys()):
            self.put(c, name, source.get(wanted[name]) if name in wanted else None)
        return Restored(0)


class RestoresDamage(FolderDriver):
    def wanted(self, source: BlobSource, want: Capture) -> dict[str, bytes]:
        refs, body = source.get_part(want.parts[0])
        found = {}
        for name, blob in zip(json.loads(body), refs, strict=True):
            try:
                found[name] = source.get(blob)
            except IntegrityError:
                found[name] = b""
        return found


class StagesLive(FolderDriver):
    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        self.restore(c, source, want)


class TrustsItsStaging(FolderDriver):
    """Decides what differs when it stages, and does not look again."""

    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        wanted, live = self.wanted(source, want), self.live(c)
        differing = [name for name in sorted(wanted.keys() | live.keys()) if wanted.get(name) != live.get(name)]
        (Path(c.work) / "plan").write_text(json.dumps(differing))

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        plan = Path(c.work) / "plan"
        if not plan.exists():
            return super().restore(c, source, want)
        wanted = self.wanted(source, want)
        self.staging(c).mkdir(exist_ok=True)
        for name in json.loads(plan.read_text()):
            if name in wanted or (self.where(c) / name).exists():
                self.put(c, name, wanted.get(name))
        plan.unlink()
        return Restored(1)

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        return []


class NeverReleases(FolderDriver):
    def release(self, c: Component) -> None:
        (self.staging(c) / "left").mkdir(parents=True, exist_ok=True)


class VerifiesNothing(FolderDriver):
    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        return []


class ResumesByEmptying(FolderDriver):
    def resume(self, c: Component) -> None:
        for path in self.where(c).iterdir():
            path.unlink()


class HoldsInMemory(FolderDriver):
    """Knows only in memory that it holds the writers (which honour a file of that name)."""

    def __init__(self) -> None:
        self.holding = False

    def quiesce(self, c: Component) -> None:
        self.holding = True
        (Path(c.work) / "held").touch()

    def resume(self, c: Component) -> None:
        if self.holding:
            self.holding = False
            (Path(c.work) / "held").unlink()


class StartsByChanging(FolderDriver):
    def start(self, c: Component, source: BlobSource, want: Capture) -> None:
        (self.where(c) / "pid").write_text("1")


class StartsByItsNote(FolderDriver):
    """Notes that it started before it did, and believes the note."""

    runs = True

    def stop(self, c: Component, pulse: Pulse) -> None:
        for path in (self.where(c) / "pid", Path(c.work) / "started"):
            path.unlink(missing_ok=True)

    def start(self, c: Component, source: BlobSource, want: Capture) -> None:
        note = Path(c.work) / "started"
        if not note.exists():
            note.write_text("yes")
            (self.where(c) / "pid").write_text("1")


class AnyOptions(msgspec.Struct, frozen=True):
    path: str


class TakesAnyOption(FolderDriver):
    options = AnyOptions


class WritesInPlace(FolderDriver):
    """Not a fault by itself: it compares, so that it converges. Here to prove that the suite allows it."""

    def put(self, c: Component, name: str, data: bytes | None) -> None:
        path = self.where(c) / name
        if data is None:
            os.unlink(path)
        else:
            path.write_bytes(data)


class ComparesSizes(WritesInPlace):
    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        wanted, live = self.wanted(source, want), self.live(c)
        for name in sorted(wanted.keys() | live.keys()):
            source.tick(1)
            if len(wanted.get(name, b"")) != len(live.get(name, b"")) or (name in wanted) != (name in live):
                self.put(c, name, wanted.get(name))
        return Restored(0)

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        return []
