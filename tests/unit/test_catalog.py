from __future__ import annotations

import os
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import apsw
import pytest

from rfs.production.rollback import catalog as catalog_module
from rfs.production.rollback.catalog import OPEN_DEPLOYMENT, Catalog, entry
from rfs.production.rollback.database import Database
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.model import Capture, CheckpointType, DeploymentCheckpoint, Fingerprint, OperationStatus
from rfs.production.rollback.operation import Mark, Operation, undoable
from rfs.production.rollback.plan import Plan
from rfs.production.rollback.selectors import find

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "catalog.db")


def a_checkpoint(checkpoint_id: str, **fields: object) -> DeploymentCheckpoint:
    capture = Capture(component="code", kind="files", fingerprint=Fingerprint(checkpoint_id), parts=(b"\xff\0",))
    return DeploymentCheckpoint(
        **{
            "checkpoint_id": checkpoint_id,
            "deployment_id": "d",
            "created_at": NOW,
            "type": CheckpointType.MANUAL,
            "captures": {"code": capture},
            **fields,
        }
    )


def an_operation(operation_id: str, **fields: object) -> Operation:
    plan = Plan(target="t", target_created_at=NOW, created_at=NOW, components=(), steps=())
    return Operation(
        **{
            "operation_id": operation_id,
            "kind": "rollback",
            "plan": plan,
            "reason": "",
            "actor": "",
            "created_at": NOW,
            "safety": "s",
            **fields,
        }
    )


def test_what_was_put_is_there_for_the_next_process(path: str) -> None:
    one, two = a_checkpoint("aa", metadata={"version": "v1", "n": [1, None]}), a_checkpoint("bb")
    catalog = Catalog(path)
    assert catalog.empty()
    for each in (one, two):
        catalog.put_checkpoint(each)
    catalog.close()
    again = Catalog(path)
    assert again.checkpoints() == [two, one]
    assert again.checkpoint("aa") == one
    assert not again.empty()
    assert os.stat(path).st_mode & 0o077 == 0


def test_a_record_round_trips_through_a_dictionary() -> None:
    one = a_checkpoint("aa", metadata={"a": {"b": [1.5, True, None, "x"]}}, tags=("t",))
    assert DeploymentCheckpoint.from_dict(one.to_dict()) == one


def test_latest_leaves_safety_out_and_captures_do_not(path: str) -> None:
    catalog = Catalog(path)
    assert catalog.latest(safety=True) is None
    one, safety = a_checkpoint("aa"), a_checkpoint("bb", type=CheckpointType.SAFETY)
    catalog.put_checkpoint(one)
    catalog.put_checkpoint(safety)
    assert catalog.latest(safety=False) == one
    assert catalog.latest(safety=True) == safety
    assert catalog.latest_captures() == safety.captures


def test_a_replaced_record_keeps_its_place(path: str) -> None:
    catalog = Catalog(path)
    catalog.put_checkpoint(a_checkpoint("aa"))
    catalog.put_checkpoint(a_checkpoint("bb"))
    catalog.put_checkpoint(a_checkpoint("aa", pinned=True, revision=1))
    assert [(c.checkpoint_id, c.pinned) for c in catalog.checkpoints()] == [("bb", False), ("aa", True)]


def test_forgotten_is_gone(path: str) -> None:
    catalog = Catalog(path)
    catalog.put_checkpoint(a_checkpoint("aa"))
    catalog.forget(["aa"])
    with pytest.raises(NotFoundError, match="aa"):
        catalog.checkpoint("aa")


def test_an_operation_and_its_mark_are_written_together(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog(path)
    operation = an_operation("op")
    catalog.put_operation(operation, entry(operation, "stage:code", Mark.DONE, "a note"))
    assert catalog.open_operation() == operation
    ended = an_operation("op", status=OperationStatus.COMPLETED)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(catalog_module, "_insert", fail)
    with pytest.raises(ZeroDivisionError):
        catalog.put_operation(ended, entry(ended, "restore:code", Mark.DONE))
    assert catalog.operation("op") == operation
    assert [(e.step, e.mark, e.note) for e in catalog.journal("op")] == [("stage:code", Mark.DONE, "a note")]


def test_notes(path: str) -> None:
    catalog = Catalog(path)
    assert catalog.noted("quiesced") is None
    catalog.note("quiesced", "db")
    catalog.note("quiesced", "db,web")
    assert catalog.noted("quiesced") == "db,web"
    catalog.note("quiesced", None)
    assert catalog.noted("quiesced") is None


def test_a_catalog_of_a_newer_release_is_refused(path: str) -> None:
    Catalog(path).close()
    db = apsw.Connection(path)
    db.pragma("user_version", 99)
    db.close()
    with pytest.raises(RollbackError, match="format 99"):
        Catalog(path)


def test_a_damaged_catalog_says_how_to_make_it_again(path: str) -> None:
    Path(path).write_bytes(b"not a database at all" * 400)
    with pytest.raises(RollbackError) as caught:
        Catalog(path)
    assert "--rebuild" in caught.value.hint


def test_pages_that_are_damaged_further_in_are_told_as_well(path: str) -> None:
    catalog = Catalog(path)
    for number in range(50):
        catalog.put_checkpoint(a_checkpoint(f"{number:012x}", message="m" * 2000))
    catalog.close()
    content = bytearray(Path(path).read_bytes())
    content[-20 * 4096 :] = b"\xa5" * 20 * 4096
    Path(path).write_bytes(content)
    again = Catalog(path)
    for look in (again.checkpoints, again.latest_captures, lambda: again.latest(safety=True)):
        with pytest.raises(RollbackError, match="is damaged"):
            look()


def test_a_capture_is_found_behind_checkpoints_of_other_components(path: str) -> None:
    catalog = Catalog(path)
    catalog.put_checkpoint(a_checkpoint("aa"))
    other = Capture(component="db", kind="sqlite", fingerprint=Fingerprint("x"))
    for number in range(9):
        catalog.put_checkpoint(a_checkpoint(f"b{number}", captures={"db": other}))
    assert catalog.latest_captures(["code", "db"])["code"].fingerprint.digest == "aa"
    assert catalog.latest_captures(["gone"]).keys() == {"code", "db"}


# — many of them —


@pytest.fixture
def many(path: str) -> Catalog:
    """200 operations, and as many checkpoints, every other one of a rollback."""
    catalog = Catalog(path)
    for number in range(200):
        kind = CheckpointType.SAFETY if number % 2 else CheckpointType.MANUAL
        catalog.put_checkpoint(a_checkpoint(f"c{number:03}", type=kind))
        catalog.put_operation(an_operation(f"{number % 10}{number:03}", status=OperationStatus.COMPLETED))
    return catalog


def test_what_is_not_asked_for_is_not_read(many: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    rows = Database.rows

    def counted(file: Database, query: str, values: tuple[object, ...] = ()) -> list[object]:
        found = rows(file, query, values)
        read.append(len(found))
        return found

    monkeypatch.setattr(Database, "rows", counted)
    assert [each.operation_id for each in islice(many.history(), 2)] == ["9199", "8198"]
    assert [each.checkpoint_id for each in islice(many.ordinary(), 2)] == ["c198", "c196"]
    assert many.operation_ids(limit=1) == ["9199"]
    assert many.operation_ids("91") == ["9199", "9189", "9179", "9169", "9159", "9149", "9139", "9129", "9119", "9109"]
    assert find("@-1", many).checkpoint_id == "c196"
    assert next(undoable(many.history())).operation_id == "9199"
    assert sum(read) < 250
    read.clear()
    assert len(list(many.history())) == len(many.operations()) == many.count_operations() == 200
    assert len(list(many.ordinary())) == many.count_safety() == 100
    assert many.latest(safety=False) == many.checkpoint("c198")


def test_what_is_open_is_found_without_looking_at_what_is_not(many: Catalog, path: str) -> None:
    many.close()
    db = apsw.Connection(path)
    # As an earlier catalog of the same format has it.
    for name in ("open_operations", "ordinary_checkpoints"):
        db.execute(f"DROP INDEX {name}")
    db.execute("DROP TABLE deployments")
    db.execute("DROP TABLE deferred")
    db.execute("DROP TRIGGER checkpoints_told")
    db.close()
    Catalog(path).close()
    db = apsw.Connection(path)
    for query, index in (
        ("SELECT record FROM operations WHERE status IN ('running', 'held') ORDER BY seq LIMIT 1", "open_operations"),
        ("SELECT record FROM checkpoints WHERE type != 'safety' ORDER BY seq DESC LIMIT 1", "ordinary_checkpoints"),
        (f"SELECT record FROM deployments WHERE {OPEN_DEPLOYMENT} LIMIT 1", "open_deployments"),
    ):
        assert index in str(db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall())
    db.close()
