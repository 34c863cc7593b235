from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.production.rollback.drivers import parsing
from rfs.production.rollback.drivers.formats import FORMATS, UnparsableError, format_of
from rfs.production.rollback.drivers.parsing import parse


def table(content: str, kind: str) -> dict[str, str]:
    return {key: value.text for key, value in parse(content.encode(), kind).items()}


EVERY = {
    "toml": 'port = 8000\n[server]\nname = "a"\non = true\nhosts = ["x", {y = 1}]\n',
    "yaml": "port: 8000\nserver:\n  name: a\n  on: true\n  hosts:\n    - x\n    - y: 1\n",
    "json": '{"port": 8000, "server": {"name": "a", "on": true, "hosts": ["x", {"y": 1}]}}',
}


@pytest.mark.parametrize("kind", EVERY)
def test_the_same_keys_in_every_format(kind: str) -> None:
    assert table(EVERY[kind], kind) == {
        "port": "8000",
        "server.name": "a",
        "server.on": "true",
        "server.hosts[0]": "x",
        "server.hosts[1].y": "1",
    }


def test_ini() -> None:
    content = "[server]\nPort = 8000\n# comment\nlong = a\n  b\n[DEFAULT]\nx: %(y)s\n[empty]\n"
    assert table(content, "ini") == {"server.Port": "8000", "server.long": "a\nb", "DEFAULT.x": "%(y)s", "empty": "{}"}


def test_odd_keys_are_quoted() -> None:
    assert table('{"a.b": 1, "": 2, "c d": {"\\"": 3}}', "json") == {'"a.b"': "1", '""': "2", '"c d"."\\""': "3"}


def test_several_yaml_documents() -> None:
    assert table("a: 1\n---\na: 2\n", "yaml") == {"[0].a": "1", "[1].a": "2"}


def test_empty_files() -> None:
    assert table("", "toml") == table("", "ini") == table("", "dotenv") == {"": "{}"}
    assert table("", "yaml") == {"": "[]"}


def test_a_byte_order_mark_is_no_key() -> None:
    assert list(parse(b"\xef\xbb\xbfport = 1\n", "toml")) == ["port"]


def test_what_lies_below_a_secret_name_is_one_secret() -> None:
    (value,) = parse(b'{"api_keys": {"hunter2": ["hunter3"]}}', "json").items()
    assert (value[0], value[1].secret) == ("api_keys", True)


def test_a_key_that_is_a_secret_itself_is_masked() -> None:
    assert table('{"ghp_abcdefghij0123": 1}', "json") == {"••••": "1"}


BROKEN = {
    "toml": ["a = hunter2", "a = 1\na = 'hunter2", "[hunter2", "a = 'hunter2'\na = 2", "\0hunter2"],
    "yaml": [
        "a: [hunter2",
        "a: hunter2\n b: - hunter2",
        "!!python/object:hunter2 {}",
        "a: &a [*a, *b]",
        "\thunter2: x",
    ],
    "json": ["hunter2", '{"a": hunter2}', '{"hunter2"', "[" + "9" * 5000 + "]"],
    "ini": ["hunter2", "[a]\nhunter2", "[a\nx = hunter2", "hunter2 = 1", "[a]\n = hunter2"],
    "dotenv": ["hunter2", "A=1\nhunter2 x", "A='hunter2", 'A="hunter2" b', "=hunter2", "1A=hunter2"],
    "systemd": ["hunter2", "A=1\n hunter2", "A='hunter2", 'A="hunter2', "=hunter2", "export A=hunter2"],
}


@pytest.mark.parametrize(("kind", "content"), [(kind, content) for kind in BROKEN for content in BROKEN[kind]])
def test_what_is_broken_says_where_and_repeats_nothing(kind: str, content: str) -> None:
    with pytest.raises(UnparsableError) as caught:
        parse(content.encode(), kind)
    assert str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_places() -> None:
    for kind, content, place in (
        ("toml", "a = 1\nb = =\n", "line 2, column 5"),
        ("json", '{\n"a": }', "line 2, column 6"),
        ("yaml", "a: 1\nb: [\n", "line 3, column 1"),
        ("ini", "[a]\nb = 1\nc\n", "line 3"),
        ("dotenv", "A=1\n\n# x\nB\n", "line 4"),
        ("systemd", "A=1\n\n; x\nB\n", "line 4"),
    ):
        with pytest.raises(UnparsableError) as caught:
            parse(content.encode(), kind)
        assert str(caught.value) == place


@pytest.mark.parametrize("kind", FORMATS)
def test_not_text(kind: str) -> None:
    with pytest.raises(UnparsableError, match="UTF-8"):
        parse(b"a = \xff\xfe", kind)


LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in ("ab", "bc", "cd", "de", "ef")
)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("json", "[" * 100_000 + "]" * 100_000),
        ("json", "[" * 60 + "]" * 60),
        ("toml", "a = " + "[" * 5000 + "]" * 5000),
        ("yaml", "a: &a\n  b: *a\n"),
        ("yaml", LAUGHS),
        ("yaml", LAUGHS.replace("f:", "secret:")),
    ],
)
def test_files_that_unfold_without_end(kind: str, content: str) -> None:
    with pytest.raises(UnparsableError):
        parse(content.encode(), kind)


def test_repeated_anchors_warn_nobody() -> None:
    assert table("a: &x 1\nb: &x 2\nc: *x\n", "yaml") == {"a": "1", "b": "2", "c": "2"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("settings.toml", "toml"), ("a.YAML", "yaml"), ("a.yml", "yaml"), ("a.json", "json"), ("a.ini", "ini"),
        ("a.cfg", "ini"), (".env", "dotenv"), (".env.production", "dotenv"), ("shop.env", "dotenv"),
        ("nginx.conf", None), ("Makefile", None),
    ],
)  # fmt: skip
def test_formats_by_name(name: str, kind: str | None) -> None:
    assert format_of(name) == kind


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FORMATS), st.text(alphabet="ab=:[]{}\"'\\\n\t #;.-,&*!|>export01", max_size=60))
def test_any_text_is_parsed_or_refused(kind: str, content: str) -> None:
    with suppress(UnparsableError):
        parse(content.encode(), kind)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40), st.sampled_from(FORMATS))
def test_any_bytes_are_parsed_or_refused(content: bytes, kind: str) -> None:
    with suppress(UnparsableError):
        parse(content, kind)


def test_many_keys_are_one_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "MOST_KEYS", 3)
    assert len(parse(b"a=1\nb=1\n", "toml")) == 2
    with pytest.raises(UnparsableError, match="too many"):
        parse(b"a=1\nb=1\nc=1\n", "toml")
