from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from rfs.production.rollback import catalog as catalog_module
from rfs.production.rollback.catalog import Catalog, entry
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.model import Capture, CheckpointType, DeploymentCheckpoint, Fingerprint, OperationStatus
from rfs.production.rollback.operation import Mark, Operation
from rfs.production.rollback.plan import Plan

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
