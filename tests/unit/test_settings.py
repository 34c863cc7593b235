"""rfs.toml: what it says, and what each mistake in it is answered with."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback.errors import NotFoundError, RollbackError, UsageError
from rfs.production.rollback.model import Reversibility
from rfs.production.rollback.plan import Policy
from rfs.production.rollback.retention import DEFAULT, Retention
from rfs.production.rollback.secret import resolve_secret
from rfs.production.rollback.settings import (
    convert_table,
    default_key,
    find,
    load,
    parse,
)

FULL = """\
[app]
name = "shop"

[components.release]
kind = "files"
path = "current"
exclude = ["*.log"]

[components.db]
kind = "sqlite"
path = "data/shop.db"
depends_on = ["release"]

[store]
path = "/var/lib/rfs/shop"
key = "file:~/.config/rfs/shop.key"

[[health]]
name = "http"
http = "http://127.0.0.1:8000/health"

[policy]
max_rollback_time = "2m"
recovery_time = 90
min_reversibility = "reversible"

[retention]
keep_last = 3
keep_within = "2d"
keep_tags = ["release"]
"""
SMALL = '[app]\nname = "shop"\n'


def refused(text: str) -> RollbackError:
    with pytest.raises(UsageError) as caught:
        parse(text, "/srv/rfs.toml")
    return caught.value


def test_everything_it_says_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/kim")
    settings = parse(FULL, "/srv/shop/rfs.toml")
    assert settings.home == "/srv/shop"
    release, db = settings.components
    assert (release.name, release.kind, release.options) == (
        "release",
        "files",
        {"path": "current", "exclude": ["*.log"]},
    )
    assert db.depends_on == ("release",)
    assert settings.store.path == "/var/lib/rfs/shop"
    assert settings.store.key == "/home/kim/.config/rfs/shop.key"
    assert settings.health == ({"name": "http", "http": "http://127.0.0.1:8000/health"},)
    assert settings.policy == Policy(
        max_rollback_time=120.0, recovery_time=90.0, min_reversibility=Reversibility.REVERSIBLE
    )
    assert settings.retention == Retention(keep_last=3, keep_within=2 * 86400.0, keep_tags=("release",))


def test_what_is_left_out_has_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/kim")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    settings = parse(SMALL, "/srv/shop/rfs.toml")
    assert settings.components == ()
    assert settings.store.path == "/srv/shop/.rfs"
    assert settings.store.key.startswith("/home/kim/.config/rfs/shop-")
    assert settings.retention == DEFAULT
    assert settings.policy == Policy()


def test_two_applications_of_one_name_have_two_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/keys")
    one, other = default_key("shop", "/srv/a"), default_key("shop", "/srv/b")
    assert one != other
    assert one == default_key("shop", "/srv/a")
    assert one.startswith("/etc/keys/rfs/shop-")
    monkeypatch.setenv("XDG_CONFIG_HOME", "not/absolute")
    assert os.path.isabs(default_key("shop", "/srv/a"))


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        (SMALL + "[polcy]\n", "polcy (line 3)", "Did you mean policy?"),
        (SMALL + "[retention]\nkeep_lst = 3\n", "retention.keep_lst (line 4)", "Did you mean keep_last?"),
        (SMALL + "[store]\npaht = 1\n", "store.paht (line 4)", "Did you mean path?"),
        (SMALL + "xyzzy = 1\n", "app.xyzzy (line 3)", "Known here: name."),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_what_was_meant(text: str, says: str, hint: str) -> None:
    error = refused(text)
    assert error.key == "settings.unknown_key"
    assert str(error) == f"/srv/rfs.toml has a key that rfs does not know: {says}."
    assert error.hint == hint
    assert error.code == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "app is not usable: it is missing"),
        ("[app]\n", "app.name (line 1) is not usable: it is missing"),
        ("app = 3\n", "app (line 1) is not usable: it takes a table"),
        ("[app]\nname = 3\n", "app.name (line 2) is not usable: it takes text, not a whole number"),
        ('[app]\nname = "../x"\n', 'app.name (line 2) is not usable: "../x" may only have'),
        (SMALL + "[components]\nweb = 3\n", "components.web (line 4) is not usable: it takes a table"),
        (SMALL + "components = 3\n[store]\n", "app.components"),
        (SMALL + '[components."a:b"]\nkind = "files"\n', 'components.a:b (line 3) is not usable: "a:b" may only'),
        (SMALL + "[components.web]\n", "components.web.kind (line 3) is not usable: it is missing"),
        (SMALL + "[components.web]\nkind = 3\n", "components.web.kind (line 4) is not usable: it takes text"),
        (
            SMALL + '[components.web]\nkind = "files"\ndepends_on = "db"\n',
            "components.web.depends_on (line 5) is not usable: it takes a list, not text",
        ),
        (
            SMALL + '[components.web]\nkind = "files"\ndepends_on = [3]\n',
            "components.web.depends_on[1] (line 5) is not usable: it takes text, not a whole number",
        ),
        (
            SMALL + '[components.web]\nkind = "files"\ndepends_on = ["wep"]\n',
            'components.web.depends_on (line 5) is not usable: there is no component called "wep" (web?)',
        ),
        (SMALL + '[store]\nkey = "env:KEY"\n', "store.key (line 4) is not usable: the key is a file"),
        (SMALL + "[health]\nname = 3\n", "health (line 3) is not usable: it takes tables: [[health]]"),
        (SMALL + '[policy]\nmax_rollback_time = "soon"\n', "policy.max_rollback_time (line 4) is not usable: 'soon'"),
        (SMALL + "[policy]\nrecovery_time = 0\n", "policy.recovery_time (line 4) is not usable: it must be longer"),
        (SMALL + '[policy]\nmin_reversibility = "good"\n', "policy.min_reversibility (line 4) is not usable: invalid"),
        (SMALL + "[[approvals]]\nrequired = 1\n", "approvals (line 3) is not usable: it takes a table: [approvals]"),
        (SMALL + '[freeze]\ncron = "0 1 * * *"\n', "freeze (line 3) is not usable: it takes tables: [[freeze]]"),
        (SMALL + "[retention]\nkeep_last = -1\n", "retention.keep_last (line 4) is not usable: it is negative"),
        (SMALL + "[retention]\nkeep_last = 1.5\n", "it takes a whole number, not a number"),
        (SMALL + "[retention]\nkeep_last = 0\n", "retention (line 3) is not usable: it keeps nothing"),
        (SMALL + "[retention]\n", "retention (line 3) is not usable: it keeps nothing"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_line(text: str, says: str) -> None:
    error = refused(text)
    assert says in str(error)
    assert "{" not in str(error) + error.hint
    assert error.code == 2


@pytest.mark.parametrize(
    "text",
    ['[store]\nmirror = "s3://b"\n'],
)
def test_keys_of_later_releases_are_refused_never_ignored(text: str) -> None:
    assert refused(SMALL + text).key == "settings.later"


def test_invalid_toml_names_the_line() -> None:
    error = refused('[app]\nname = "x\n')
    assert error.key == "settings.syntax"
    assert "line 2" in str(error)


# — the file —


def write(folder: Path, text: str = SMALL, mode: int = 0o644) -> Path:
    path = folder / "rfs.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_it_is_found_upward(tmp_path: Path) -> None:
    path = write(tmp_path)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find(str(deep)) == str(path)
    inner = write(tmp_path / "a")
    assert find(str(deep)) == str(inner)


def test_none_above_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(NotFoundError) as caught:
        find(str(tmp_path))
    assert caught.value.code == 10
    assert str(tmp_path) in str(caught.value)


def test_a_relative_path_is_loaded_as_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = load("rfs.toml")
    assert settings.path == str(tmp_path / "rfs.toml")
    assert settings.store.path == str(tmp_path / ".rfs")


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, mode=mode)
    with pytest.raises(UsageError) as caught:
        load(str(path))
    assert caught.value.key == "settings.writable"
    assert f"chmod go-w {path}" in caught.value.hint


def test_a_missing_file_a_folder_and_other_encodings_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as missing:
        load(str(tmp_path / "other.toml"))
    assert missing.value.key == "settings.missing"
    with pytest.raises(UsageError) as folder:
        load(str(tmp_path))
    assert folder.value.key == "settings.unreadable"
    path = write(tmp_path)
    path.write_bytes(b'[app]\nname = "\xff"\n')
    with pytest.raises(UsageError) as encoding:
        load(str(path))
    assert "line 2 is not UTF-8" in str(encoding.value)


# — for the other rooms —


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    exclude: tuple[str, ...] = ()


def test_a_drivers_options_are_checked_in_the_same_words(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + '[components.web]\nkind = "files"\npaht = "x"\nexclude = "y"\n')
    settings = load(str(path))
    where = ("components", "web")
    with pytest.raises(UsageError) as caught:
        convert_table(settings, settings.components[0].options, Options, where)
    assert str(caught.value).endswith("components.web.paht (line 5).")
    with pytest.raises(UsageError) as caught:
        convert_table(settings, {"path": "x", "exclude": "y"}, Options, where)
    assert "components.web.exclude (line 6) is not usable: it takes a list, not text" in str(caught.value)
    assert convert_table(settings, {"path": "x"}, Options, where) == Options("x")


def test_a_health_table_is_named_by_its_number() -> None:
    text = SMALL + '[[health]]\nname = "a"\n[[health]]\nnmae = "b"\n'

    class Check(msgspec.Struct, frozen=True):
        name: str

    settings = parse(text, "/nowhere/rfs.toml")
    with pytest.raises(UsageError) as caught:
        convert_table(settings, settings.health[1], Check, ("health", 1))
    assert "health[2].nmae." in str(caught.value), "without the file only the line is lost"


# — secrets —


def test_secrets_come_from_the_environment_a_file_or_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFS_TEST_SECRET", "from env")
    (tmp_path / "password").write_text("from file\n", encoding="utf-8")
    home = str(tmp_path)
    assert resolve_secret("env:RFS_TEST_SECRET", home) == "from env"
    assert resolve_secret("file:password", home) == "from file"
    assert resolve_secret("cmd:printf '%s\n' 'from cmd'", home) == "from cmd"
    assert resolve_secret("cmd:cat password", home) == "from file"
    assert resolve_secret("postgres://plain", home) == "postgres://plain"


@pytest.mark.parametrize(
    "value",
    [
        "env:RFS_TEST_NOT_SET",
        "file:none",
        "cmd:sh -c 'echo hunter2 >&2; exit 3'",
        "cmd:/no/such/program hunter2",
        "cmd:",
        "cmd:'",
    ],
)
def test_a_secret_that_cannot_be_had_is_named_and_not_shown(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_secret(value, str(tmp_path))
    assert caught.value.key == "secret.unavailable"
    assert "hunter2" not in str(caught.value) + caught.value.hint


# — anything at all —

words = st.sampled_from(
    ["app", "name", "components", "kind", "depends_on", "store", "key", "retention", "keep_last", "x"]
)
scalars = st.one_of(st.booleans(), st.integers(), st.floats(), st.text("ab.:/", max_size=4), st.just([1]))
tables = st.dictionaries(words, scalars, max_size=3)
documents = st.dictionaries(words, st.one_of(scalars, tables, st.dictionaries(words, tables, max_size=2)), max_size=5)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def outcome(text: str) -> str:
    """Settings or one sentence about the file; anything else goes through and fails the test."""
    try:
        return f"{parse(text, '/srv/rfs.toml').path} is {parse(text, '/srv/rfs.toml').name}"
    except UsageError as error:
        return f"{error} {error.hint}"


@given(documents)
def test_any_document_is_settings_or_one_sentence(document: dict[str, object]) -> None:
    said = outcome("".join(f"{key} = {toml(value)}\n" for key, value in document.items()))
    assert said.startswith("/srv/rfs.toml")
    assert "{" not in said


@given(st.text("[]=.\"'\n#ab01é\x00", max_size=40))
def test_any_text_is_settings_or_one_sentence(text: str) -> None:
    assert outcome(text).startswith("/srv/rfs.toml")
