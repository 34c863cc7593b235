"""Forget, prune, verify and rebuild on a small real application."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from small import Small

from rfs.production.rollback import capturing, upkeep
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.errors import ConflictError, IntegrityError, NotFoundError, RollbackError
from rfs.production.rollback.model import CheckpointType, OperationStatus, utc_now

LAST_TWO = "[retention]\nkeep_last = 2\n"


def test_prune_keeps_what_the_rules_and_the_operations_need_and_nothing_else(tmp_path: Path) -> None:
    small = Small(tmp_path, more=LAST_TWO)
    with small.open() as app:
        ids = []
        for number in range(1, 7):
            small.version(number)
            ids.append(app.checkpoint(message=f"{number}", tags=[f"v{number}"]).checkpoint_id)
        app.amend("v2", pinned=True)
        app.rollback("v5")
        v5 = small.state()
        undone = app.catalog.operations()[0]
        before = app.store.size()
        dry = upkeep.prune(app, dry_run=True)
        assert len(app.catalog.checkpoints()) == 8
        assert app.store.size() == before
        done = upkeep.prune(app, dry_run=False)
        assert set(done.retained.remove) == set(dry.retained.remove) == {ids[0], ids[2], ids[3]}
        left = {c.checkpoint_id for c in app.catalog.checkpoints()}
        assert left == {ids[1], ids[4], ids[5], undone.safety, undone.before}
        assert app.store.size() < before
        assert not upkeep.verify(app).damaged
        with pytest.raises(NotFoundError):
            app.find("v3")
    with small.open() as app:
        app.undo()
        app.rollback("v2")
        app.rollback("v5")
        assert small.state() == v5


def test_prune_holds_no_whole_history_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(tmp_path, more=LAST_TWO)
    with small.open() as app:
        for number in range(1, 5):
            small.version(number)
            app.checkpoint()
        app.rollback("@-2")

        def refuse(catalog: Catalog) -> None:
            raise AssertionError("there may be a hundred thousand of them")

        monkeypatch.setattr(Catalog, "checkpoints", refuse)
        monkeypatch.setattr(Catalog, "operations", refuse)
        dry = upkeep.prune(app, dry_run=True)
        assert upkeep.prune(app, dry_run=False).retained == dry.retained
        assert len(dry.retained.remove) == 2
        upkeep.forget(app, [dry.retained.keep[-1]])


def test_what_is_pinned_or_needed_cannot_be_forgotten(tmp_path: Path) -> None:
    small = Small(tmp_path)
    with small.open() as app:
        app.checkpoint(tags=["one"])
        app.amend("one", pinned=True)
        with pytest.raises(ConflictError, match="pinned"):
            upkeep.forget(app, ["one"])
        small.version(2)
        app.rollback("one")
        with pytest.raises(ConflictError, match="needed to undo"):
            upkeep.forget(app, [app.catalog.operations()[0].safety])
        app.amend("one", pinned=False)
        upkeep.forget(app, ["one"])
        with pytest.raises(NotFoundError):
            app.find("one")
        app.undo()


def spoil(pack: Path) -> None:
    data = bytearray(pack.read_bytes())
    data[len(data) // 3] ^= 0xFF
    os.chmod(pack, 0o600)
    pack.write_bytes(data)


def test_a_damaged_pack_is_found_named_and_refused_before_anything_is_touched(tmp_path: Path) -> None:
    small = Small(tmp_path)
    with small.open() as app:
        first = app.checkpoint(tags=["one"]).checkpoint_id
        packs = set((small.store / "packs").iterdir())
        (small.tree / "code.txt").write_bytes(os.urandom(20_000))
        second = app.checkpoint(tags=["two"]).checkpoint_id
        (new,) = set((small.store / "packs").iterdir()) - packs
        spoil(new)
        small.version(3)
    state = small.state()
    with small.open() as app:
        found = upkeep.verify(app)
        assert second in found.damaged
        assert first in found.whole
        assert found.damage
        with pytest.raises(IntegrityError) as caught:
            app.rollback("two")
        assert caught.value.code == 12
        assert small.state() == state
        app.rollback("one")
        assert (small.tree / "code.txt").read_text() == "version 1\n" * 50


def test_a_lost_pack_is_refused_with_the_list_of_what_is_whole(tmp_path: Path) -> None:
    small = Small(tmp_path)
    with small.open() as app:
        whole = app.checkpoint(tags=["one"]).checkpoint_id
        packs = set((small.store / "packs").iterdir())
        (small.tree / "code.txt").write_bytes(os.urandom(20_000))
        app.checkpoint(tags=["two"])
        (new,) = set((small.store / "packs").iterdir()) - packs
    new.unlink()
    small.version(3)
    state = small.state()
    with small.open() as app:
        with pytest.raises(RollbackError) as caught:
            app.rollback("two")
        assert caught.value.code == 12
        assert whole in caught.value.hint
        assert small.state() == state
        app.rollback("one")


def test_index_and_catalog_are_made_again_from_packs_and_key(tmp_path: Path) -> None:
    small = Small(tmp_path)
    with small.open() as app:
        one = app.checkpoint(message="kept", tags=["one"])
        app.amend("one", pinned=True, message="amended")
        small.version(2)
        app.checkpoint(tags=["two"])
        app.rollback("one", reason="why")
        known = {c.checkpoint_id: (c.message, c.pinned, c.tags) for c in app.catalog.checkpoints()}
        operations = [(o.operation_id, o.status, o.reason) for o in app.catalog.operations()]
    v1 = small.state()
    for name in os.listdir(small.store):
        if name.startswith(("catalog", "index")):
            (small.store / name).unlink()
    with small.open() as app:
        assert app.catalog.empty()
        upkeep.rebuild(app)
        assert {c.checkpoint_id: (c.message, c.pinned, c.tags) for c in app.catalog.checkpoints()} == known
        assert [(o.operation_id, o.status, o.reason) for o in app.catalog.operations()] == operations
        assert app.find("one").message == "amended"
        assert app.find("one").captures == one.captures
        app.undo()
        assert small.state() != v1
        app.rollback("one")
        assert small.state() == v1


def test_doctor_tells_what_is_wrong(tmp_path: Path) -> None:
    small = Small(tmp_path, more='[[health]]\nname = "tcp"\ntcp = "127.0.0.1:9"\nretries = 0\nrequired = false\n')
    with small.open() as app:
        levels = {finding.level for finding in upkeep.examine(app)}
        assert levels == {"warning"}
        (small.tree / "small.db").write_bytes(b"not a database" * 100)
        texts = [finding.text for finding in upkeep.examine(app) if finding.level == "error"]
        assert any("small.db" in text for text in texts)


def test_a_damaged_manifest_is_one_damaged_checkpoint_not_the_end_of_the_search(tmp_path: Path) -> None:
    small = Small(tmp_path)
    with small.open() as app:
        whole = app.checkpoint(tags=["one"]).checkpoint_id
        packs = set((small.store / "packs").iterdir())
        small.version(2)
        damaged = app.checkpoint(tags=["two"])
        (new,) = set((small.store / "packs").iterdir()) - packs
        part = damaged.captures["tree"].parts[0]
        (copy,) = app.store._shelf.ask(lambda index: index.find(part))
    content = bytearray(new.read_bytes())
    content[copy.entry.offset + copy.entry.length // 2] ^= 1
    new.write_bytes(content)
    small.version(3)
    state = small.state()
    with small.open() as app:
        with pytest.raises(IntegrityError) as caught:
            app.rollback("two")
        assert whole in caught.value.hint
        assert small.state() == state
        for found in (upkeep.verify(app), upkeep.verify(app, "two")):
            assert found.damaged == (damaged.checkpoint_id,)
            assert part in found.damage.blobs
        assert upkeep.verify(app).whole == (whole,)
        assert upkeep.prune(app, dry_run=False).unreadable == {damaged.checkpoint_id: ("tree",)}
        upkeep.rebuild(app)
        upkeep.forget(app, ["two"])
        assert upkeep.prune(app, dry_run=False).unreadable == {}
        app.rollback("one")


def flip(small: Small, part: bytes) -> None:
    """Flip one bit of a manifest part; flip it again and it is whole."""
    with small.open() as app:
        (copy,) = app.store._shelf.ask(lambda index: index.find(part))
    pack = small.store / "packs" / f"{copy.pack}.pack"
    content = bytearray(pack.read_bytes())
    content[copy.entry.offset + copy.entry.length // 2] ^= 1
    pack.write_bytes(content)


def test_damage_of_what_undo_needs_holds_the_space_up_until_it_is_given_up(tmp_path: Path) -> None:
    small = Small(tmp_path, more="[retention]\nkeep_last = 1\n")
    with small.open() as app:
        waste = app.checkpoint(tags=["waste"]).checkpoint_id
        app.checkpoint(tags=["one"])
        small.version(2)
        (small.tree / "only-before.txt").write_bytes(os.urandom(50_000))
        operation = app.rollback("one")
        before = app.catalog.checkpoint(operation.state_before)
    version_1 = small.state()
    part = before.captures["tree"].parts[0]
    flip(small, part)
    with small.open() as app:
        size = app.store.size()
        for selector, why in ((operation.state_before, "needed to undo"), (operation.safety, "needed to undo")):
            with pytest.raises(ConflictError, match=why):
                upkeep.forget(app, [selector])
        for dry_run in (True, False):
            cleaned = upkeep.prune(app, dry_run=dry_run)
            assert cleaned.retained.remove == (waste,)
            assert cleaned.unreadable[before.checkpoint_id] == ("tree",)
            assert cleaned.pruned.freed == 0
        assert waste not in {c.checkpoint_id for c in app.catalog.checkpoints()}
        assert app.store.size() == size
    flip(small, part)  # the disk was replaced, say, by its copy
    with small.open() as app:
        assert not upkeep.verify(app).damaged
        app.undo()
        assert (small.tree / "only-before.txt").exists()
        app.rollback("one")
        assert small.state() == version_1
    flip(small, part)
    with small.open() as app:
        with pytest.raises(ConflictError, match="is whole"):
            upkeep.prune(app, dry_run=False, forget_damaged=["one"])
        app.amend(before.checkpoint_id, pinned=True)
        with pytest.raises(ConflictError, match="it is pinned"):
            upkeep.prune(app, dry_run=False, forget_damaged=[before.checkpoint_id])
        app.amend(before.checkpoint_id, pinned=False)
        given_up = [c for c, _ in upkeep.prune(app, dry_run=True).unreadable.items()]
        cleaned = upkeep.prune(app, dry_run=False, forget_damaged=given_up)
        assert set(given_up) <= set(cleaned.retained.remove)
        assert not cleaned.unreadable
        assert not upkeep.verify(app).damaged
        with pytest.raises(NotFoundError, match="no longer kept"):
            app.undo(operation=operation.operation_id)
        app.rollback("one")
        assert small.state() == version_1


def test_a_forgotten_checkpoint_that_a_rebuild_brings_back_is_not_the_latest(tmp_path: Path) -> None:
    small = Small(tmp_path)
    with small.open() as app:
        ids = [app.checkpoint(message=f"{number}").checkpoint_id for number in range(3)]
        upkeep.forget(app, [ids[0]])
        upkeep.rebuild(app)
        assert [c.checkpoint_id for c in app.catalog.checkpoints()] == ids[::-1]
        assert app.find("@latest").checkpoint_id == ids[2]


def test_what_was_just_taken_stays_though_the_clock_was_ahead_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small(tmp_path, more=LAST_TWO)
    with small.open() as app:
        with monkeypatch.context() as ahead:
            ahead.setattr(capturing, "utc_now", lambda: utc_now() + timedelta(days=400))
            for _ in range(3):
                app.checkpoint()
        now = app.checkpoint().checkpoint_id
        upkeep.prune(app, dry_run=False)
        assert app.find("@latest").checkpoint_id == now


def test_a_backup_outlives_a_prune_until_it_is_forgotten(tmp_path: Path) -> None:
    small = Small(tmp_path, more=LAST_TWO)
    with small.open() as app:
        backup = app.checkpoint(kind=CheckpointType.SAFETY).checkpoint_id
        app.checkpoint()
        upkeep.prune(app, dry_run=False)
        assert app.find(backup).checkpoint_id == backup
        upkeep.forget(app, [backup])
        with pytest.raises(NotFoundError):
            app.find(backup)


def test_prune_settles_nothing(tmp_path: Path) -> None:
    small = Small(tmp_path)
    with small.open() as app:
        target = app.checkpoint().checkpoint_id
        small.version(2)
        operation = app.rollback("@latest")
        opened = msgspec.structs.replace(operation, status=OperationStatus.RUNNING, finished_at=None)
        app.catalog.put_operation(opened)
        cleaned = upkeep.prune(app, dry_run=True)
        assert app.catalog.open_operation() == opened
        assert any("open operation" in why for why in cleaned.retained.reasons[target])
        # Settling it may take the room that prune is to make.
        upkeep.prune(app, dry_run=False)
        assert app.catalog.open_operation() == opened
        assert operation.operation_id in app.notices[-1]
