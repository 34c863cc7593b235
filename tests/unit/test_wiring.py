from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rfs.production.rollback import wiring
from rfs.production.rollback.driver import Driver
from rfs.production.rollback.errors import NotFoundError, RollbackError, UsageError
from rfs.production.rollback.settings import parse
from rfs.production.rollback.wiring import inside, load_parts
from rfs.testing import MemoryDriver, MemoryOptions


def parts(text: str, home: Path = Path("/srv/shop")) -> dict[str, object]:
    settings = parse(f'[app]\nname = "shop"\n{text}', str(home / "rfs.toml"))
    return dict(load_parts(settings, str(home / "work")))


FILES = '[components.code]\nkind = "files"\npath = "current"\n'
DB = '[components.db]\nkind = "sqlite"\npath = "current/shop.db"\n'


def test_components_come_in_the_order_of_their_dependencies() -> None:
    text = (
        '[components.a]\nkind = "sqlite"\npath = "a.db"\ndepends_on = ["b"]\n'
        '[components.b]\nkind = "environment"\npath = ".env"\n'
    )
    assert list(parts(text)) == ["b", "a"]


def test_what_lies_in_a_folder_comes_after_it_unless_rfs_toml_says_otherwise() -> None:
    # "db" would come before "tree" by name; when the folder is gone it could not be restored first.
    tree = '[components.tree]\nkind = "files"\npath = "current"\n'
    assert list(parts(DB + tree)) == ["tree", "db"]
    assert parts(DB + tree)["db"].component.depends_on == ("tree",)
    assert list(parts(DB + tree + 'depends_on = ["db"]\n')) == ["db", "tree"]
    between = '[components.env]\nkind = "environment"\npath = ".env"\ndepends_on = ["db"]\n'
    assert list(parts(DB + between + tree + 'depends_on = ["env"]\n')) == ["db", "env", "tree"]


def test_what_another_component_owns_is_carved_out_of_a_folder() -> None:
    text = FILES + DB + '[components.conf]\nkind = "config"\npath = "current/a.toml"\n[store]\npath = "current/.rfs"\n'
    carved = parts(text)["code"].component.carved
    base = "/srv/shop/current"
    expected = {"shop.db", "shop.db-wal", "shop.db-shm", "shop.db-journal", "a.toml", ".rfs"}
    assert {f"{base}/{name}" for name in expected} <= set(carved)
    assert parts(text)["db"].component.carved == ()


def test_what_runs_is_told_of_the_files_and_folders_of_the_others() -> None:
    # A unit may share its environment file with them, and leaves it to them.
    web = '[components.web]\nkind = "service"\nmanager = "supervisor"\nconfig = "supervisord.conf"\n'
    env = '[components.env]\nkind = "environment"\npath = ".env"\n'
    assert parts(FILES + env + web)["web"].component.carved == ("/srv/shop/.env", "/srv/shop/current")


@pytest.mark.parametrize(
    ("text", "kind", "complaint"),
    [
        (FILES + FILES.replace("code", "again"), UsageError, "again and code both own /srv/shop/current"),
        (FILES + '[components.in]\nkind = "files"\npath = "current/plugins"\n', UsageError, "in lies inside .* code"),
        (FILES + '[store]\npath = "current"\n', UsageError, "store /srv/shop/current"),
        (FILES + '[store]\npath = "."\n', UsageError, "store /srv/shop"),
        ('[components.x]\nkind = "filse"\npath = "y"\n', NotFoundError, "unknown kind: filse"),
        (FILES + 'depends_on = ["dbb"]\n', UsageError, "dbb"),
        (FILES + "excluded = []\n", UsageError, "excluded"),
        (FILES + "keep = 3\n", UsageError, "keep"),
        ('[components.x]\nkind = "sqlite"\n', UsageError, "path"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_one_sentence(
    text: str, kind: type[RollbackError], complaint: str
) -> None:
    with pytest.raises(kind, match=complaint) as caught:
        parts(text)
    assert caught.value.hint


def test_a_folder_inside_a_folder_is_fine_once_it_is_excluded() -> None:
    text = FILES + 'exclude = ["plugins/"]\n[components.in]\nkind = "files"\npath = "current/plugins"\n'
    assert "/srv/shop/current/plugins" in parts(text)["code"].component.carved


def test_inside_is_about_folders_not_about_letters() -> None:
    assert inside("/srv/shop/a", "/srv/shop")
    assert inside("/srv/shop", "/srv/shop")
    assert inside("/srv", "/")
    assert not inside("/srv/shop2", "/srv/shop")


class Right(MemoryDriver):
    kind = "odd"


class Lacking(Driver):
    kind = "odd"
    options = MemoryOptions


class OfAnotherKind(MemoryDriver):
    pass


class WithoutOptions(MemoryDriver):
    kind = "odd"
    options = dict  # type: ignore[assignment]  # as an author who read nothing may write it


def offer(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    offered = tuple(EntryPoint("odd", value, wiring.GROUP) for value in values)
    monkeypatch.setattr(wiring, "_offered", lambda: offered)


def test_a_kind_that_a_plug_in_offers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, f"{__name__}:Right")
    found = parts('[components.x]\nkind = "odd"\n')["x"]
    assert type(found.driver).__name__ == "Right"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_package:Driver", "No module named 'no_such_package'"),
        ("os:NoSuchDriver", "has no attribute 'NoSuchDriver'"),
        ("os:getpid", "it is no subclass of rfs.plugin.Driver"),
        (f"{__name__}:Lacking", "it has no method capture, fingerprint, restore"),
        (f"{__name__}:OfAnotherKind", "its own kind is memory"),
        (f"{__name__}:WithoutOptions", "its options are no msgspec.Struct"),
        ("broken_plug_in:Driver", "SyntaxError"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_one_sentence(
    value: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_plug_in.py").write_text("def")
    monkeypatch.syspath_prepend(tmp_path)
    offer(monkeypatch, value)
    with pytest.raises(UsageError, match="The kind odd is offered by") as caught:
        parts('[components.x]\nkind = "odd"\n')
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "anew" in caught.value.hint


def test_a_kind_that_two_packages_offer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, f"{__name__}:Right", "other:Driver")
    with pytest.raises(UsageError, match=f"more than one package: other, {__name__}"):
        parts('[components.x]\nkind = "odd"\n')
