from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.gradual import Gradual, Stage, taken_over
from rfs.production.rollback.instances import counted, in_waves
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.settings import parse

names = st.lists(st.text("abc0123", min_size=1, max_size=4), min_size=1, max_size=12, unique=True)
shares = st.one_of(st.integers(1, 15), st.integers(1, 100).map(lambda percent: f"{percent}%"))


@given(names, st.lists(shares, max_size=5), shares)
def test_each_instance_is_in_one_wave_and_in_one_batch(
    names: list[str], waves: list[int | str], share: int | str
) -> None:
    waves.sort(key=lambda each: counted(each, len(names)))
    found = in_waves(names, waves)
    assert [name for wave in found for name in wave] == names
    assert all(found)
    at_once = counted(share, len(names))
    assert 1 <= at_once <= len(names)
    record = gradual(found, at_once=at_once)
    for wave in found:
        batches = list(record.batches(record.left(wave)))
        assert [name for batch in batches for name in batch] == list(wave)
        assert all(0 < len(batch) <= at_once for batch in batches)
    # After the first waves as many are done as was asked for, and all in the end.
    done = 0
    for wave, _ in zip(found, waves, strict=False):
        done += len(wave)
        assert done in {counted(each, len(names)) for each in waves} | {len(names)}


@pytest.mark.parametrize(
    ("waves", "found"),
    [
        ([1, "25%", "100%"], [1, 1, 6]),
        (["25%", "50%", "100%"], [2, 2, 4]),
        ([1], [1, 7]),
        ([], [8]),
        ([1, 1, 3, 99], [1, 2, 5]),
        (["1%"], [1, 7]),
    ],
)
def test_shares_are_of_all_and_rounded_up(waves: list[int | str], found: list[int]) -> None:
    assert [len(wave) for wave in in_waves("abcdefgh", waves)] == found


TOML = """
[app]
name = "fleet"
[instances]
names = ["a", "b"]
{more}
[components.code]
kind = "files"
path = "/srv/{{instance}}"
exclude = ["{{instance}}.log"]
depends_on = ["settings"]
[components.web]
kind = "service"
manager = "systemd"
units = ["web@{{instance}}"]
depends_on = ["code"]
[components.settings]
kind = "config"
path = "/etc/settings.toml"
[components.worker]
kind = "service"
manager = "systemd"
units = ["worker"]
depends_on = ["web"]
[[health]]
name = "http"
http = "http://127.0.0.1/{{instance}}"
[[health]]
name = "port {{instance}}"
tcp = "{{instance}}:80"
[[health]]
name = "all"
command = ["true"]
"""


def test_what_belongs_to_each_is_there_once_for_each(tmp_path: Path) -> None:
    found = parse(TOML.format(more=""), str(tmp_path / "rfs.toml"))
    assert [(each.name, each.depends_on) for each in found.components] == [
        ("code.a", ("settings",)),
        ("code.b", ("settings",)),
        ("web.a", ("code.a",)),
        ("web.b", ("code.b",)),
        ("settings", ()),
        ("worker", ("web.a", "web.b")),
    ]
    assert found.components[1].options == {"path": "/srv/b", "exclude": ["b.log"]}
    assert [each["name"] for each in found.health] == ["http.a", "http.b", "port a", "port b", "all"]
    assert found.health[1]["http"] == "http://127.0.0.1/b"
    instances = found.instances
    assert instances is not None
    assert instances.of(["web.b", "settings"]) == ["b"]
    assert instances.shared(["web.b", "settings"]) == ["settings"]
    wanted = {"http.a": False, "http.b": True, "port a": False, "port b": True, "all": True}
    assert {name: instances.checked_with(name, ["web.b"]) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("waves = []\nwave = 1", "wave"),
        ("waves = [0]", "is no number of instances"),
        ('waves = ["101%"]', "is no number of instances"),
        ("waves = [2, 1]", "waves go up"),
        ("max_unavailable = 0", "is no number of instances"),
        ("max_unavailable = true", "instances.max_unavailable"),
        ('bake = "soon"', "is not a duration"),
        ('on_failure = "stop"', "on_failure"),
        ('traffic = { haproxy = "h.sock" }', "traffic.backend"),
        ('traffic = { haproxy = "h", backend = "b", server = "web" }', "with {instance} in it"),
        ('[components."code.a"]\nkind = "config"\npath = "x"', "two components called code.a"),
    ],
)
def test_wrong_instances_are_refused(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(TOML.format(more=more), str(tmp_path / "rfs.toml"))
    assert told in str(refused.value) + refused.value.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("names = []", "names is empty"),
        ('names = ["a", "a"]', "holds a name twice"),
        ('names = ["a b"]', "may only have"),
        ("", "it is missing"),
    ],
)
def test_wrong_names_are_refused(tmp_path: Path, text: str, told: str) -> None:
    toml = TOML.format(more="").replace('names = ["a", "b"]', text)
    with pytest.raises(UsageError, match=told):
        parse(toml, str(tmp_path / "rfs.toml"))
    none = '[app]\nname = "x"\n[instances]\nnames = ["a"]\n[components.c]\nkind = "config"\npath = "x"\n'
    with pytest.raises(UsageError, match="nothing of each"):
        parse(none, str(tmp_path / "rfs.toml"))


def gradual(waves: list[tuple[str, ...]], **facts: object) -> Gradual:
    return Gradual(
        gradual_id="0" * 12, target="1" * 12, created_at=utc_now(), waves=tuple(waves), components={}, **facts
    )  # type: ignore[arg-type]  # of the test's choice


@pytest.mark.parametrize("completed", [True, False])
@pytest.mark.parametrize("stage", [Stage.RUNNING, Stage.REVERTING])
def test_what_was_under_way_counts_by_how_its_operation_ended(stage: Stage, completed: bool) -> None:
    back = stage is Stage.REVERTING
    found = gradual(
        [("a",), ("b", "c")],
        stage=stage,
        done={"a": "x", "b": "y"} if back else {"a": "x"},
        doing=("b",),
        operation_id="z",
        drained=("b",),
    )
    now = taken_over(found, completed=completed, held=False)
    assert (now.stage, now.doing, now.drained, now.operation_id) == (Stage.PAUSED, (), (), None)
    assert ("b" in now.done) is (completed is not back)
    held = taken_over(found, completed=False, held=True)
    assert (held.stage, held.doing, held.done) == (Stage.PAUSED, ("b",), found.done)
