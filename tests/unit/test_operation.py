from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback.errors import IrreversibleError, NotFoundError, UsageError
from rfs.production.rollback.model import (
    Capture,
    Change,
    ChangeKind,
    CheckpointType,
    DeploymentCheckpoint,
    Fingerprint,
    OperationStatus,
    Ref,
    Reversibility,
)
from rfs.production.rollback.operation import (
    LEFT,
    Entry,
    Mark,
    Operation,
    position,
    redoable,
    remaining,
    still_done,
    undoable,
    way_back,
    way_forward,
)
from rfs.production.rollback.plan import Action, Plan, Policy, Scope, differs, make_plan, order, select

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
TARGET = DeploymentCheckpoint(
    checkpoint_id="0123456789ab", deployment_id="", created_at=NOW, type=CheckpointType.MANUAL
)


def capture(name: str) -> Capture:
    return Capture(component=name, kind="memory", fingerprint=Fingerprint("x"))


def scope(name: str, **fields: object) -> Scope:
    return Scope(**{"component": name, "kind": "memory", "want": capture(name), **fields})


def a_plan(*scopes: Scope, **policy: object) -> Plan:
    return make_plan(TARGET, scopes or SCOPES, Policy(**policy), NOW)


SCOPES = (scope("web", runs=True), scope("code", starts=True), scope("db", depends_on=("code",)))
PLAN = a_plan()


def marks(*pairs: tuple[str, Mark]) -> list[Entry]:
    return [Entry("op", step, mark, NOW) for step, mark in pairs]


def test_the_steps_stand_in_the_order_of_the_straight_line() -> None:
    assert " ".join(step.id for step in PLAN.steps) == (
        "stage:code stage:web stage:db stop:web delta late:code late:db"
        " restore:code verify:code restore:web verify:web restore:db verify:db"
        " start:web start:code health"
    )
    assert PLAN.components == ("code", "web", "db")


def test_services_that_are_not_selected_are_stopped_and_started_all_the_same() -> None:
    plan = a_plan(scope("code"), scope("web", runs=True, want=None))
    steps = [step.id for step in plan.steps]
    assert plan.components == ("code",)
    assert "stop:web" in steps
    assert "start:web" in steps
    assert not {"stage:web", "restore:web", "verify:web"} & set(steps)


def test_a_step_worse_than_the_policy_allows_refuses_the_plan() -> None:
    worse = scope("mail", reversibility=Reversibility.IRREVERSIBLE)
    with pytest.raises(IrreversibleError, match="restore:mail"):
        a_plan(worse)
    assert a_plan(worse, min_reversibility=Reversibility.UNKNOWN).reversibility is Reversibility.IRREVERSIBLE


def test_the_hash_covers_what_is_done_and_never_how_much() -> None:
    change = Change("code", ChangeKind.CHANGED, "a", Ref("1", 10), Ref("2", 20))
    code = scope("code", changes=(change,), starts=True)
    more = a_plan(scope("web", runs=True), code, scope("db", depends_on=("code",)))
    assert more.hash == PLAN.hash
    assert more.estimate.seconds > PLAN.estimate.seconds
    fewer = a_plan(scope("web", runs=True), scope("code"))
    assert fewer.hash != PLAN.hash
    assert "db" in differs(PLAN, fewer)
    assert differs(PLAN, more) == ""


def test_order_is_by_dependency_and_a_circle_is_named() -> None:
    assert order({"a": ["c"], "b": [], "c": ["b", "elsewhere"]}) == ["b", "c", "a"]
    with pytest.raises(UsageError, match="circle"):
        order({"a": ["b"], "b": ["a"]})


def test_select() -> None:
    names = ["code", "db", "web"]
    assert select(names) == names
    assert select(names, only=["web", "code"]) == ["code", "web"]
    assert select(names, without=["db"]) == ["code", "web"]
    with pytest.raises(NotFoundError, match="cod"):
        select(names, only=["cod"])
    with pytest.raises(UsageError):
        select(names, only=["db"], without=["db"])


def test_before_the_first_stop_nothing_needs_to_be_done() -> None:
    where = position(PLAN, marks(("stage:code", Mark.INTENT), ("stage:code", Mark.DONE), ("stage:db", Mark.INTENT)))
    assert where.done == {"stage:code"}
    assert not where.outage
    assert way_back(PLAN, where) == []


def test_stopped_but_untouched_only_needs_a_start() -> None:
    where = position(PLAN, marks(("stop:web", Mark.INTENT)))
    assert [step.action for step in way_back(PLAN, where)] == [Action.START] * 2


def test_touched_data_is_restored_and_what_ran_meanwhile_is_kept_first() -> None:
    touched = position(PLAN, marks(("stop:web", Mark.INTENT), ("restore:code", Mark.INTENT)))
    back = [step.id for step in way_back(PLAN, touched)]
    assert back[0] == "stop:web"
    assert "delta" not in back
    assert back[-1] == "health"
    assert [step for step in back if step.startswith(("restore", "verify"))] == [
        "restore:db", "verify:db", "restore:web", "verify:web", "restore:code", "verify:code",
    ]  # fmt: skip
    assert "left" not in back
    for unkept in (("start:web", Mark.INTENT), ("verify:code", Mark.FAILED), ("", Mark.RESUMED)):
        where = position(PLAN, marks(("restore:code", Mark.INTENT), unkept, ("", Mark.TURN)))
        assert [step.id for step in way_back(PLAN, where)][:2] == ["stop:web", "left"]


def test_whoever_carries_it_on_keeps_what_is_there_before_anything_is_restored() -> None:
    stopped = [("stop:web", Mark.INTENT), ("stop:web", Mark.DONE), ("delta", Mark.DONE), ("restore:code", Mark.INTENT)]
    assert way_forward(PLAN, position(PLAN, marks(*stopped))) == list(PLAN.steps)

    def left_is_due(*more: tuple[str, Mark]) -> bool:
        where = position(PLAN, marks(*stopped, *more))
        forward, back = way_forward(PLAN, where), way_back(PLAN, where)
        assert (LEFT in forward) == (LEFT in back)
        if LEFT in forward:
            assert forward.index(LEFT) == forward.index(PLAN.steps[3]) + 1
        return LEFT in forward and LEFT.id not in still_done(PLAN, where)

    resumed, kept = ("", Mark.RESUMED), ("left", Mark.DONE)
    assert left_is_due(resumed)
    assert not left_is_due(resumed, kept)
    # The next one cannot know what was written since, nor whether a restore had begun to overwrite it.
    assert left_is_due(resumed, kept, resumed)
    assert left_is_due(resumed, kept, ("restore:code", Mark.INTENT), resumed)
    # Left out by somebody: for the run that follows, not for ever.
    skipped = ("left", Mark.SKIPPED)
    assert not left_is_due(skipped, resumed)
    assert not left_is_due(resumed, skipped)
    assert left_is_due(skipped, resumed, ("restore:code", Mark.INTENT), resumed)
    # Everything is restored and read back: what the services write now is the application's.
    restored = [(step.id, Mark.DONE) for step in PLAN.steps if step.id.startswith(("restore", "verify"))]
    assert not left_is_due(*restored, resumed)


def test_while_data_is_still_to_be_restored_nothing_restored_is_taken_for_granted() -> None:
    entries = [("restore:code", Mark.INTENT), ("restore:code", Mark.DONE), ("verify:code", Mark.DONE)]
    assert still_done(PLAN, position(PLAN, marks(*entries))) == frozenset()
    begun_again = position(PLAN, marks(*entries, ("restore:code", Mark.INTENT)))
    assert "restore:code" not in begun_again.done


def test_done_marks_from_before_the_turn_do_not_count_after_it() -> None:
    where = position(
        PLAN, marks(("stop:web", Mark.INTENT), ("stop:web", Mark.DONE), ("", Mark.TURN), ("start:web", Mark.DONE))
    )
    assert where.turned
    assert where.done == {"start:web"}
    assert not where.unkept


def test_a_skipped_stop_stays_skipped_though_data_is_still_to_be_restored() -> None:
    entries = [("restore:code", Mark.INTENT), ("stop:web", Mark.DONE)]
    assert "stop:web" not in still_done(PLAN, position(PLAN, marks(*entries)))
    assert "stop:web" in still_done(PLAN, position(PLAN, marks(*entries, ("stop:web", Mark.SKIPPED))))
    turned = position(PLAN, marks(("stop:web", Mark.SKIPPED), ("", Mark.TURN)))
    assert not turned.skipped


def test_a_skipped_step_counts_as_done() -> None:
    assert position(PLAN, marks(("health", Mark.SKIPPED))).done == {"health"}


@given(st.lists(st.tuples(st.sampled_from([step.id for step in PLAN.steps]), st.sampled_from(list(Mark)))))
def test_the_way_back_always_starts_what_may_have_been_stopped(pairs: list[tuple[str, Mark]]) -> None:
    entries = marks(*[("" if mark is Mark.TURN else step, mark) for step, mark in pairs])
    where = position(PLAN, entries)
    back = {step.id for step in way_back(PLAN, where)}
    stopped = any(step.startswith("stop") and mark is Mark.INTENT for step, mark in pairs)
    if stopped:
        assert "start:web" in back
    for step, mark in pairs:
        if step.startswith("restore") and mark is Mark.INTENT:
            assert step in back


def an_operation(operation_id: str, undoes: str | None = None, **fields: object) -> Operation:
    return Operation(
        **{
            "operation_id": operation_id,
            "kind": "rollback",
            "plan": PLAN,
            "reason": "",
            "actor": "",
            "undoes": undoes,
            "created_at": NOW,
            "safety": "s",
            "status": OperationStatus.COMPLETED,
            **fields,
        }
    )


def with_components(operation_id: str, *names: str, undoes: str | None = None) -> Operation:
    return an_operation(operation_id, undoes, plan=msgspec.structs.replace(PLAN, components=names))


def test_what_was_taken_back_of_some_components_can_still_be_of_the_others() -> None:
    first, second = with_components("1", "code", "db"), with_components("2", "code")
    assert list(undoable([second, first], "db")) == [first]
    assert list(undoable([second, first], "code")) == [second, first]
    part = with_components("3", "db", undoes="1")
    assert list(remaining([part, second, first])) == [(second, ("code",)), (first, ("code",))]
    assert list(undoable([part, second, first], "db")) == []
    rest = with_components("4", "code", undoes="1")
    assert list(undoable([rest, part, second, first])) == [second]
    back = with_components("5", "db", undoes="3")
    assert list(remaining([back, rest, part, first])) == [(first, ("db",))]


def test_redo_takes_back_the_last_undo_that_stands_and_nothing_when_something_came_after() -> None:
    first, second = an_operation("1"), an_operation("2")
    undo, older = an_operation("4", undoes="1"), an_operation("3", undoes="2")
    redo, again = an_operation("5", undoes="4"), an_operation("6", undoes="3")
    failed = an_operation("7", undoes="3", status=OperationStatus.REVERTED)
    undos = {"3", "4"}

    def found(*newest_first: Operation) -> Operation | None:
        return redoable(newest_first, lambda each: each.undoes in undos)

    assert found(undo, older, second, first) is undo
    assert found(redo, undo, older, second, first) is older
    assert found(failed, redo, undo, older, second, first) is older
    assert found(again, redo, undo, older, second, first) is None
    assert found(an_operation("8"), undo, older, second, first) is None
    assert found() is None


def test_undo_goes_further_back_each_time_and_an_undone_undo_does_not_count() -> None:
    first, second = an_operation("1"), an_operation("2")
    failed = an_operation("3", status=OperationStatus.REVERTED)
    assert list(undoable([failed, second, first])) == [second, first]
    undo = an_operation("4", undoes="2")
    assert list(undoable([undo, failed, second, first])) == [first]
    undo_of_undo = an_operation("5", undoes="4")
    assert list(undoable([undo_of_undo, undo, failed, second, first])) == [second, first]
    undo_failed = an_operation("6", undoes="2", status=OperationStatus.REVERTED)
    assert list(undoable([undo_failed, second])) == [second]
