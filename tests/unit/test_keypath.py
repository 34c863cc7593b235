"""Dotted keys: what is joined is split into the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback import keypath


@given(st.lists(st.text(max_size=6) | st.sampled_from(["a.b", 'q"', "\\", 'x\\"', "[0]", "", " "]), min_size=1))
def test_what_is_joined_is_split_into_the_same(words: list[str]) -> None:
    key = keypath.join(words)
    assert keypath.split(key) == words
    assert keypath.table_of(key) == key
    assert keypath.table_of(f'{key}[3]."x[1]"') == key


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", '"a', 'a"b"', '"a"b', 'a."b'])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match="is no dotted key"):
        keypath.split(key)


def test_as_people_write_them() -> None:
    assert keypath.split('hosts."a.example.com".port') == ["hosts", "a.example.com", "port"]
    assert keypath.split("a\\b.c") == ["a\\b", "c"]
    assert keypath.split("a b.c") == ["a b", "c"]
