"""Format-preserving writing: what was asked for is said, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.production.rollback.drivers.formats import UnparsableError
from rfs.production.rollback.drivers.writing import UnwritableError, read, same, write

KINDS = ("toml", "yaml", "json", "ini", "dotenv")

KEYS = st.text("abcxyz_-. é1", min_size=1, max_size=5)
NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,4}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["yes", "null", "1", "1.0", "#", "a # b", "a: b", "- a", "it's", '"', "\\", "$A", "~", "2020-01-01", " x ", "a\nb"]
)
SCALARS = TEXTS | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)


def trees(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    inner = st.recursive(
        scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3), max_leaves=8
    )
    return st.dictionaries(KEYS, inner, max_size=4)


VALUES = {
    "toml": trees(SCALARS),
    "yaml": trees(SCALARS | st.none()),
    "json": trees(SCALARS | st.none()),
    "ini": st.dictionaries(
        NAMES, st.dictionaries(NAMES, st.from_regex(r"([a-z][a-z#=: ]{0,4}[a-z])?", fullmatch=True)), max_size=3
    ),
    "dotenv": st.dictionaries(NAMES, TEXTS, max_size=5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_was_asked_for(kind: str) -> None:
    made = refused = 0

    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(VALUES[kind], VALUES[kind])
    def check(old: dict[str, Any], new: dict[str, Any]) -> None:
        nonlocal made, refused
        try:
            first = write(b"", old, kind)
            again = write(first, new, kind)
        except UnwritableError:
            refused += 1  # honest, but it must be rare
            return
        made += 1
        assert same(read(first, kind), old)
        assert same(read(again, kind), new)
        assert write(again, new, kind) == again

    check()
    assert made >= 3 * refused, (made, refused)


BEFORE = {
    "toml": '# top\na = 1  # one\nwhen = 2020-01-01\n\n[s]  # s\nx = "1"   # of x\n# gone too\ny = [1,\n 2, # two\n]\n',
    "yaml": "# top\na: 1   # one\nwhen: 2020-01-01\n# of s\ns:\n    x:   '1'  # of x\n    y: [1,   2]\n# end\n",
    "json": '{\n\t"a" : 1,\n\t"when": "2020-01-01",\n\n\t"s": {"x":"1", "y": [ 1,2 ]}\n}',
}
AFTER = {
    "toml": '# top\na = 1  # one\nwhen = 2021-02-03\n\n[s]  # s\nx = "2"   # of x\n# gone too\ny = [1,\n 3, # two\n]\n',
    "yaml": "# top\na: 1   # one\nwhen: 2021-02-03\n# of s\ns:\n    x:   '2'  # of x\n    y: [1,   3]\n# end\n",
    "json": '{\n\t"a" : 1,\n\t"when": "2021-02-03",\n\n\t"s": {"x":"2", "y": [ 1,3 ]}\n}',
}


@pytest.mark.parametrize("kind", BEFORE)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_nothing_but_the_changed_values_is_touched(kind: str, end: str, bom: bytes) -> None:
    before = bom + BEFORE[kind].replace("\n", end).encode()
    values = {"a": 1, "when": "2021-02-03", "s": {"x": "2", "y": [1, 3]}}
    assert write(before, values, kind) == bom + AFTER[kind].replace("\n", end).encode()
    assert write(before, read(before, kind), kind) == before


def test_toml_keeps_comments_when_keys_come_and_go() -> None:
    text = b"# top\na = 1 # one\n# of b\nb = 2\n\n[s]\n# of x\nx = 1\n"
    made = write(text, {"b": 2, "s": {"x": 1, "n": True}, "new": {"k": 1}}, "toml").decode()
    assert made == "# top\n# of b\nb = 2\n\n[s]\n# of x\nx = 1\nn = true\n\n[new]\nk = 1\n"


def test_yaml_keeps_comments_when_members_come_and_go() -> None:
    text = (
        b"# top\na: 1\n# of b\nb:\n  - k: 1\n    gone: 2\n  # second\n  - k: 3\n# of c\nc: |\n  long\n\nd: 4 # four\n"
    )
    made = write(text, {"b": [{"k": 1}, {"k": 5}], "c": "x", "d": 4, "e": {"f": [1]}}, "yaml").decode()
    assert made == ("# top\n# of b\nb:\n  - k: 1\n  # second\n  - k: 5\n# of c\nc: x\n\nd: 4 # four\ne:\n  f:\n  - 1\n")


def test_yaml_that_shares_a_value_is_not_changed_behind_its_users_back() -> None:
    text = b"base: &base\n  x: 1\n  y: 2\nuser:\n  <<: *base\n  z: 3\nother: *base\n"
    now = read(text, "yaml")
    assert write(text, {**now, "user": {"x": 1, "y": 9, "z": 4}}, "yaml") == (
        b"base: &base\n  x: 1\n  y: 2\nuser:\n  <<: *base\n  z: 4\n  y: 9\nother: *base\n"
    )
    with pytest.raises(UnwritableError, match=r"other\.x"):
        write(text, {**now, "base": {"x": 7, "y": 2}, "user": {"x": 7, "y": 2, "z": 3}}, "yaml")


@pytest.mark.parametrize(
    ("kind", "before", "other", "both"),
    [
        ("json", b'{"a": 1, "b": 0, "a": 2}', b'{"a": 1, "b": 9, "a": 2}', b'{"a": 7, "b": 9, "a": 7}'),
        ("ini", b"[s]\na = 1\nb = 0\na = 2\n", b"[s]\na = 1\nb = 9\na = 2\n", b"[s]\na = 7\nb = 9\na = 7\n"),
        ("dotenv", b"a=1\nb=0\na=2\n", b"a=1\nb=9\na=2\n", b"a=7\nb=9\na=7\n"),
    ],
)
def test_a_key_that_is_there_twice_stays_twice_and_means_the_last(
    kind: str, before: bytes, other: bytes, both: bytes
) -> None:
    values = read(before, kind)
    inner = values["s"] if kind == "ini" else values
    one, two, nine, seven = (1, 2, 9, 7) if kind == "json" else ("1", "2", "9", "7")
    assert (inner["a"], one) == (two, one)
    inner["b"] = nine
    assert write(before, values, kind) == other
    inner["a"] = seven
    assert write(before, values, kind) == both


@pytest.mark.parametrize(
    ("kind", "data"), [("yaml", b"a: 1\nb: 0\na: 2\n"), ("toml", b"a = 1\na = 2\n"), ("yaml", b"a: !secret x\n")]
)
def test_keys_that_are_there_twice_and_tags_that_nobody_knows_are_refused(kind: str, data: bytes) -> None:
    with pytest.raises(UnparsableError, match="line"):
        read(data, kind)


def test_anchors_and_standard_tags_stay() -> None:
    assert write(b"a: !!int '3'\nb: &x 1\nc: *x\nd: 1\n", {"a": 3, "b": 1, "c": 1, "d": 2}, "yaml") == (
        b"a: !!int '3'\nb: &x 1\nc: *x\nd: 2\n"
    )


def test_json_members_come_and_go_where_they_are() -> None:
    text = b'{\n  "a": 1,\n  "b": 2.50,\n  "c": {"x": 1}\n}\n'
    assert write(text, {"b": 2.5, "c": {"x": 1, "y": 2}}, "json") == b'{\n  "b": 2.50,\n  "c": {"x": 1, "y": 2}\n}\n'
    assert write(text, {"a": 1, "n": [1]}, "json") == b'{\n  "a": 1,\n  "n": [\n    1\n  ]\n}\n'


def test_ini_and_dotenv_are_edited_line_by_line() -> None:
    ini = b"; top\n[a]\nx = 1\n# of y\ny = 2\n    more\n\n[b]\nz=1\n"
    assert write(ini, {"a": {"y": "3", "n": 4}, "b": {"z": "1"}, "c": {}}, "ini") == (
        b"; top\n[a]\n# of y\ny = 3\nn = 4\n\n[b]\nz=1\n\n[c]\n"
    )
    env = b"# top\nexport A='one' # of A\nB=2\n\nC=\"x\"\n"
    assert write(env, {"A": "two", "C": "$y", "D": "a b"}, "dotenv") == (
        b"# top\nexport A='two' # of A\n\nC='$y'\nD=\"a b\"\n"
    )


@pytest.mark.parametrize(
    ("kind", "values", "place"),
    [
        ("toml", {"a": {"b": None}}, "a"),
        ("ini", {"a": 1}, "a"),
        ("ini", {"a": {"b": "x\n#y"}}, r"a\.b"),
        ("ini", {"a": {"b": ["x"]}}, r"a\.b"),
        ("dotenv", {"A": {"b": 1}}, "A"),
        ("dotenv", {"not a name": "x"}, "not a name"),
    ],
)
def test_what_a_format_cannot_say_is_refused_by_its_place(kind: str, values: dict[str, Any], place: str) -> None:
    with pytest.raises(UnwritableError, match=rf"^{place} "):
        write(b"", values, kind)


def test_a_true_is_no_one() -> None:
    assert write(b'{"a": 1}', {"a": True}, "json") == b'{"a": true}'
    assert write(b"a = 1\n", {"a": 1.0}, "toml") == b"a = 1.0\n"


@pytest.mark.parametrize(
    ("kind", "data"),
    [("json", b"[1]"), ("json", b'{"a": NaN}'), ("yaml", b"1: x"), ("toml", b"a = "), ("yaml", b"a: !!binary aGk=")],
)
def test_what_json_has_not_is_not_read(kind: str, data: bytes) -> None:
    with pytest.raises(UnparsableError):
        read(data, kind)


def test_no_value_is_in_an_error() -> None:
    for kind, values in (("ini", {"a": {"b": "s3cret\n#x"}}), ("toml", {"a": ["s3cret", None]})):
        with pytest.raises(UnwritableError) as caught:
            write(b"", values, kind)
        assert "s3cret" not in str(caught.value)
