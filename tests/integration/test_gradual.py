"""Rollbacks in waves, of real processes under supervisord, behind a real HAProxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import TRAFFIC, Fleet, needs_haproxy

Make = Callable[..., Fleet]


@pytest.fixture
def fleet_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Fleet] = []

    def make(count: int, instances: str = "") -> Fleet:
        fleet = Fleet(capsys, count, instances)
        made.append(fleet)
        monkeypatch.chdir(fleet.home)
        monkeypatch.setenv("HOME", str(fleet.home))
        Path(fleet.home / "key").unlink(missing_ok=True)
        assert fleet.rfs("init", "--yes").code == 0
        fleet.json("checkpoint", "-m", "one", "--tag", "v1")
        fleet.deploy("v2")
        return fleet

    yield make
    for fleet in made:
        fleet.close()


def gradually(fleet: Fleet, *more: str) -> Any:
    return fleet.rfs("rollback", "v1", "--strategy", "gradual", "--yes", "--reason", "a test", "--json", *more)


def where(data: Any) -> dict[str, bool]:
    return {each["name"]: each["at_target"] for each in data["instances"]}


def test_wave_by_wave_each_instance_comes_back_and_the_others_go_on(fleet_of: Make) -> None:
    fleet = fleet_of(3)
    a, b, c = fleet.names
    before = fleet.pids()
    assert fleet.json("status")["gradual"] is None
    ran = gradually(fleet)
    assert ran.code == 0, ran
    assert ran.data["status"] == "completed"
    assert ran.data["waves"] == [[a], [b, c]]
    assert where(ran.data) == {a: True, b: True, c: True}
    assert fleet.running() == fleet.code() == {a: "v1", b: "v1", c: "v1"}
    assert all(before[name] != fleet.pids()[name] for name in fleet.names)
    log = fleet.json("log")
    assert [(each["kind"], each["strategy"], each["components"]) for each in log[:3]] == [
        ("rollback", "gradual", [f"code.{name}", f"web.{name}"]) for name in (c, b, a)
    ]


def test_all_at_once_takes_all_instances_and_a_name_means_each(fleet_of: Make) -> None:
    fleet = fleet_of(2)
    assert fleet.rfs("rollback", "v1", "--yes", "--reason", "a test").code == 0
    assert set(fleet.running().values()) == {"v1"}
    fleet.deploy("v2")
    data = fleet.json("plan", "v1", "--only", "code")
    assert data["components"] == [f"code.{name}" for name in fleet.names]
    assert fleet.json("status")["drift"][0]["component"] == f"code.{fleet.names[0]}"


def test_an_ill_wave_pauses_with_the_map_and_goes_on_when_it_is_well(fleet_of: Make) -> None:
    fleet = fleet_of(4, "waves = [1, 3, 4]\nmax_unavailable = 2")
    a, b, c, d = fleet.names
    fleet.sick("v1", c)
    old = fleet.pids()
    ran = gradually(fleet)
    assert ran.code == 31
    assert f"{a}: target, {b}: before, {c}: before, {d}: before" in ran.out
    status = fleet.json("status")["gradual"]
    assert status["status"] == "paused"
    assert where(status) == {a: True, b: False, c: False, d: False}
    assert fleet.running() == fleet.code() == {a: "v1", b: "v2", c: "v2", d: "v2"}
    assert fleet.pids()[d] == old[d]  # its wave has not begun
    assert fleet.rfs("status", "--exit-code").code == 31
    assert "gradual" in gradually(fleet).out  # there is one already
    (fleet.home / "sick").unlink()
    assert where(fleet.json("resume")) == dict.fromkeys(fleet.names, True)
    assert set(fleet.running().values()) == {"v1"}
    assert fleet.json("status")["gradual"] is None
    assert fleet.rfs("resume").code == 10


def test_a_paused_one_can_be_taken_back(fleet_of: Make) -> None:
    fleet = fleet_of(3, 'waves = ["34%", "67%", "100%"]')
    fleet.sick("v1", fleet.names[2])
    assert gradually(fleet).code == 31
    assert list(fleet.running().values()) == ["v1", "v1", "v2"]
    data = fleet.json("abort", "--reason", "it was the wrong one")
    assert data["status"] == "reverted"
    assert where(data) == dict.fromkeys(fleet.names, False)
    assert set(fleet.running().values()) == set(fleet.code().values()) == {"v2"}


@pytest.mark.slow
def test_what_a_failure_means_can_be_chosen(fleet_of: Make) -> None:
    fleet = fleet_of(3, 'on_failure = "revert"')
    a, b, c = fleet.names
    fleet.sick("v1", b)
    ran = gradually(fleet)
    assert ran.code == 30
    assert "was taken back" in ran.out
    assert set(fleet.running().values()) == {"v2"}
    fleet.configure('on_failure = "continue"')
    ran = gradually(fleet)
    assert ran.code == 3
    assert where(ran.data) == {a: True, b: False, c: True}
    assert ran.data["instances"][1]["failed"]
    assert fleet.running() == {a: "v1", b: "v2", c: "v1"}


@pytest.mark.slow
def test_a_wave_that_falls_ill_in_the_bake_pauses(fleet_of: Make) -> None:
    fleet = fleet_of(2, 'bake = "30s"')
    a, _ = fleet.names
    # Well when it starts, and ill soon after that.
    (fleet.home / "web.py").write_text(
        (fleet.home / "web.py")
        .read_text()
        .replace("ill = ", "ill = (version == 'v1' and time.time() > born + 2) or ")
        .replace("class Web", "born = time.time()\nclass Web")
    )
    ran = gradually(fleet)
    assert ran.code == 31
    assert f"After the wave of {a} the application did not stay healthy: http.{a}" in ran.out
    assert list(fleet.running().values()) == ["v1", "v2"]


def test_what_all_share_must_not_change_under_some(fleet_of: Make) -> None:
    fleet = fleet_of(2)
    (fleet.home / "settings.toml").write_text("title = 'Shop 2'\n")
    for refused in (gradually(fleet), gradually(fleet, "--dry-run")):
        assert refused.code == 15
        assert "settings would change, too" in refused.out
    data = gradually(fleet, "--except", "settings", "--dry-run").data
    assert (data["dry_run"], data["waves"]) == (True, [[fleet.names[0]], [fleet.names[1]]])
    assert set(fleet.running().values()) == {"v2"}
    assert gradually(fleet, "--except", "settings").code == 0
    assert set(fleet.running().values()) == {"v1"}
    assert "Shop 2" in (fleet.home / "settings.toml").read_text()


@needs_haproxy
def test_no_request_fails_behind_haproxy(fleet_of: Make) -> None:
    fleet = fleet_of(6, TRAFFIC)
    fleet.balance()
    with fleet.load() as failures:
        ran = gradually(fleet)
    assert ran.code == 0, ran
    assert failures == []
    assert set(fleet.answers) == {"v1", "v2"}
    assert fleet.answers[-1] == "v1"
    assert fleet.states() == dict.fromkeys(fleet.names, "no check")
    assert set(fleet.running().values()) == {"v1"}
