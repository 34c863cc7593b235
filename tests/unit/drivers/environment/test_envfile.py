from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback.drivers.envfile import parse_dotenv, parse_systemd
from rfs.production.rollback.drivers.formats import UnparsableError


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("A=1", {"A": "1"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("  export A = one two  # said\n\n#B=2\n", {"A": "one two"}),
        ("A=\nB", None),
        ("A=\nB=x#y", {"A": "", "B": "x#y"}),
        ("A='one # two' # three", {"A": "one # two"}),
        ('A="one\\ntwo\\"\\t\\$x"', {"A": 'one\ntwo"\t$x'}),
        ("A='it\\'s'", {"A": "it's"}),
        ('A="one\ntwo"\nB=3', {"A": "one\ntwo", "B": "3"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=a=b==", {"A": "a=b=="}),
        ('A={"x": 1}', {"A": '{"x": 1}'}),
        ("a.b-c=1", {"a.b-c": "1"}),
        ("A=#x", {"A": "#x"}),
        ("A='x' y", None),
        ("A='x", None),
        ("A B=1", None),
        ("=1", None),
    ],
)
def test_dotenv(content: str, found: dict[str, str] | None) -> None:
    if found is None:
        with pytest.raises(UnparsableError):
            parse_dotenv(content)
    else:
        assert parse_dotenv(content) == found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("A=1\n; no\n# no\nB=2", {"A": "1", "B": "2"}),
        ("A=one two  \n", {"A": "one two"}),
        ("A=  one # two\n", {"A": "one # two"}),
        ('A="one two  "\n', {"A": "one two  "}),
        ("A=one\\\ntwo\nB=1", {"A": "onetwo", "B": "1"}),
        ('A="one\\"two"\n', {"A": 'one"two'}),
        ("A='one\\two'\n", {"A": "one\\two"}),
        ("A=a'b c'd\n", {"A": "ab cd"}),
        ('A="one\ntwo"\nB=3', {"A": "one\ntwo", "B": "3"}),
        ("A=\nB=x", {"A": "", "B": "x"}),
        ("A=''\nB=x", {"A": "", "B": "x"}),
        ("export A=1", None),
        ("A", None),
        ("A='x", None),
    ],
)
def test_systemd(content: str, found: dict[str, str] | None) -> None:
    if found is None:
        with pytest.raises(UnparsableError):
            parse_systemd(content)
    else:
        assert parse_systemd(content) == found


values = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True), values, max_size=5))
def test_what_is_quoted_comes_back(table: dict[str, str]) -> None:
    plain = {name: value.replace("'", "") for name, value in table.items()}
    content = "".join(f"{name}='{value}'\n" for name, value in plain.items() if "\\" not in value)
    expected = {name: value for name, value in plain.items() if "\\" not in value}
    assert parse_dotenv(content) == expected
    assert parse_systemd(content) == expected


@given(st.from_regex(r"[A-Za-z0-9/:@.,+-]{0,20}", fullmatch=True))
def test_plain_values_are_what_a_shell_would_read(value: str) -> None:
    assert parse_dotenv(f"A={value}\n") == parse_systemd(f"A={value}\n") == {"A": "".join(shlex.split(value))}
