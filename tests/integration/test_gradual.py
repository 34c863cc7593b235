"""Rollbacks in waves, of real processes under supervisord, behind a real HAProxy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import TRAFFIC, Fleet, killed_at, needs_haproxy
from waiting import until

from rfs.production.rollback import RollbackManager, RollbackStrategy
from rfs.production.rollback.errors import PausedError

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


@pytest.mark.slow
def test_all_at_once_takes_all_instances_and_a_name_means_each(fleet_of: Make) -> None:
    fleet = fleet_of(2)
    assert fleet.rfs("rollback", "v1", "--yes", "--reason", "a test").code == 0
    assert set(fleet.running().values()) == {"v1"}
    fleet.deploy("v2")
    data = fleet.json("plan", "v1", "--only", "code")
    assert data["components"] == [f"code.{name}" for name in fleet.names]
    assert fleet.json("status")["drift"][0]["component"] == f"code.{fleet.names[0]}"


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_paused_one_can_be_taken_back(fleet_of: Make) -> None:
    # Nobody listens there: what is told waits, and can be read.
    fleet = fleet_of(
        3, 'waves = ["34%", "67%", "100%"]\n[[notify]]\nwebhook = "http://127.0.0.1:9/"\non = ["held", "rollback"]'
    )
    fleet.sick("v1", fleet.names[2])
    assert gradually(fleet).code == 31
    assert list(fleet.running().values()) == ["v1", "v1", "v2"]
    data = fleet.json("abort", "--reason", "it was the wrong one")
    log = fleet.json("audit", "export")
    whole = [each for each in log if each["what"] == "gradual rollback"]
    assert [each["outcome"] for each in whole] == ["begun", "paused", "reverting", "reverted"]
    assert whole[1]["detail"]["where"].count(": target") == 2
    titles = [each["title"] for each in fleet.json("notify", "list")["letters"]]
    assert any("Gradual rollback paused" in title for title in titles)
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


@pytest.mark.slow
def test_a_condition_that_trips_in_the_bake_pauses(fleet_of: Make) -> None:
    fleet = fleet_of(2)
    a, _ = fleet.names
    # 5 % fail whoever asks, and with the first instance of v1 a quarter do.
    command = f"if grep -q v1 apps/{a}/code.txt; then echo 0.25; else echo 0.05; fi"
    condition = (
        f'[[conditions]]\nname = "errors"\ntrip = "> 0.1"\ninterval = "100ms"\ncommand = ["sh", "-c", "{command}"]'
    )
    fleet.configure(f'bake = "60s"\n{condition}')
    ran = gradually(fleet)
    assert ran.code == 31
    assert f"After the wave of {a}, errors is 0.25, above 0.1" in ran.out
    assert list(fleet.running().values()) == ["v1", "v2"]
    assert fleet.json("abort")["status"] == "reverted"


@pytest.mark.slow
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
@pytest.mark.slow
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


@needs_haproxy
@pytest.mark.slow
def test_requests_would_fail_if_haproxy_went_on_sending_them(fleet_of: Make) -> None:
    fleet = fleet_of(2)  # without [instances.traffic]
    fleet.balance()
    with fleet.load() as failures:
        assert gradually(fleet).code == 0
    assert failures


@needs_haproxy
@pytest.mark.slow
def test_without_haproxy_nothing_begins(fleet_of: Make) -> None:
    fleet = fleet_of(2, TRAFFIC)
    ran = gradually(fleet)
    assert ran.code == 1
    assert "HAProxy does not answer" in ran.out
    fleet.balance()
    fleet.configure(TRAFFIC.replace('"web"', '"shop"'))
    assert "there is no such server" in gradually(fleet).out
    assert fleet.json("status")["gradual"] is None
    assert set(fleet.running().values()) == set(fleet.code().values()) == {"v2"}


@pytest.mark.slow
def test_from_python(fleet_of: Make) -> None:
    fleet = fleet_of(2)
    manager = RollbackManager(str(fleet.home / "rfs.toml"))
    fleet.sick("v1", fleet.names[1])
    paused = asyncio.run(manager.rollback_to_checkpoint("v1", "a test", strategy=RollbackStrategy.GRADUAL))
    assert paused.is_failure()
    assert isinstance(paused.error, PausedError)
    part = asyncio.run(manager.rollback_to_checkpoint("v1", strategy=RollbackStrategy.GRADUAL, paths=["code.txt"]))
    assert part.is_failure()
    assert fleet.rfs("abort").code == 0
    (fleet.home / "sick").unlink()
    done = asyncio.run(manager.rollback_to_checkpoint("v1", "a test", strategy=RollbackStrategy.GRADUAL)).unwrap()
    assert (done["status"], done["instances"]) == ("completed", dict.fromkeys(fleet.names, "target"))
    records = manager.get_rollback_history()
    assert [each.strategy for each in records[:2]] == [RollbackStrategy.GRADUAL] * 2


@needs_haproxy
@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_between_any_two_words_each_instance_is_old_or_new(fleet_of: Make, after: bool) -> None:
    fleet = fleet_of(3, "waves = [1, 3]\n" + TRAFFIC)
    fleet.balance()
    words = ("rollback", "v1", "--strategy", "gradual", "--yes", "--reason", "a test", "-q")
    ended, at, seen = -9, 2, set()
    while ended == -9:
        ended = killed_at(fleet, at, *words, after=after)
        fleet.rfs("recover")
        paused = fleet.json("status")["gradual"]
        code = fleet.code()
        until(lambda: fleet.running() == code)  # noqa: B023 — it is over before the next round
        assert set(code.values()) <= {"v1", "v2"}
        assert fleet.states() == dict.fromkeys(fleet.names, "no check")
        if paused is not None:
            assert paused["status"] == "paused"
            assert where(paused) == {name: version == "v1" for name, version in code.items()}
            seen.add(sum(where(paused).values()))
            done, version = ("resume", "v1") if at % 2 else ("abort", "v2")
            assert fleet.rfs(done).code == 0
            assert set(fleet.running().values()) == set(fleet.code().values()) == {version}
        if set(fleet.running().values()) == {"v1"}:
            fleet.deploy("v2")
        at += 11  # another one each time of those that a batch has
    assert ended == 0
    assert {0, 1, 2} <= seen


@pytest.mark.slow
def test_one_approval_is_for_all_its_waves_and_breaking_the_glass_is_told_of_each(fleet_of: Make) -> None:
    fleet = fleet_of(2)
    policy = '\n[policy]\napproval_required = true\n[approvals]\napprovers = ["daemon"]\n'
    with (fleet.home / "rfs.toml").open("a") as file:
        file.write(policy)
    ran = gradually(fleet)
    assert (ran.code, ran.data["error"]["key"]) == (13, "approval.needed")
    assert fleet.code() == dict.fromkeys(fleet.names, "v2")
    ran = gradually(fleet, "--break-glass")
    assert ran.code in (0, 3), ran
    assert fleet.code() == dict.fromkeys(fleet.names, "v1")
    waves = fleet.json("log")
    assert [each["break_glass"] for each in waves] == [True, True]
    entries = [line for line in (fleet.home / ".rfs" / "audit.jsonl").read_text().splitlines() if "break-glass" in line]
    assert len(entries) == 2
