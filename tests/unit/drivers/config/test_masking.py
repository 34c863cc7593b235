from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback.drivers.formats import Value
from rfs.production.rollback.drivers.keys import key_changes
from rfs.production.rollback.drivers.masking import MASK, SHOWN, is_secret_name, is_secret_value, label, masked
from rfs.production.rollback.model import Component
from rfs.testing import MemoryStore

C = Component(name="settings", kind="config", options={}, home="/", work="/")


@pytest.mark.parametrize(
    "name",
    [
        "password", "PASSWORD", "db_password", "dbPassword", "DBPASSWORD", "passwd", "pwd", "secret", "SECRET_KEY",
        "clientSecret", "token", "accessToken", "key", "api-key", "APIKEY", "signing.key", "dsn", "SENTRY_DSN",
        "credentials", "aws_credentials", "private", "auth", "smtp_pass", "JWT", "session", "salt",
    ],
)  # fmt: skip
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["port", "host", "keyboard", "monkey", "author", "compass", "passenger", "tokyo", "name", "database", "spin"],
)
def test_names_that_are_none(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "value",
    [
        "postgres://shop:hunter2@db/shop", "redis://:hunter2@cache:6379/0", "https://hunter2@example.org/x",
        "https://example.org/hook?token=hunter2", "https://x.blob/?sv=1&sig_key=hunter2",
        "-----BEGIN PRIVATE KEY-----\nabc", "eyJhbGciOiJIUzI1NiJ9.e30.abc", "ghp_0123456789abcdef", "sk-abcdefghij0123",
        "AKIAIOSFODNN7EXAMPLE", "Bearer abc", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "q83vEjRWeJq83vEjRWeJq83v==",
        "dsn=tcp://u:p@h", "mysql+pymysql://a:b%40c@h/d",
    ],
)  # fmt: skip
def test_secret_values(value: str) -> None:
    assert is_secret_value(value)


@pytest.mark.parametrize(
    "value",
    [
        "8000", "true", "sqlite:///shop.db", "postgres://db/shop", "https://example.org/a?page=2", "shop@example.org",
        "/srv/shop/releases/20240101120000/current", "2026-11-22T21:31:00Z", "a rather long sentence about nothing",
        "rfs.production.rollback.drivers.config", "INFO", "",
    ],
)  # fmt: skip
def test_values_that_are_none(value: str) -> None:
    assert not is_secret_value(value)


def test_a_label_is_one_short_line() -> None:
    assert label("a\n  b\tc") == "a b c"
    assert label("x" * 500) == "x" * (SHOWN - 1) + "…"


def test_what_became_secret_is_masked_on_both_sides() -> None:
    old, new = {"url": Value("postgres://db/x")}, {"url": Value("postgres://u:hunter2@db/x")}
    (change,) = key_changes(C, MemoryStore(), old, new)
    assert change.before
    assert change.after
    assert (change.before.label, change.after.label) == (MASK, MASK)
    assert (change.before.size, change.after.size) == (0, 0)
    assert change.before.id != change.after.id


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(2) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
values = st.dictionaries(
    st.text(max_size=5), st.text(max_size=8).map(lambda text: Value(text, secret=True)), max_size=5
)


@given(values, values)
def test_changes_are_those_of_a_model(old: dict[str, Value], new: dict[str, Value]) -> None:
    changes = list(key_changes(C, MemoryStore(), old, new))
    assert [change.key for change in changes] == sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    for change in changes:
        assert (change.before is not None) == (change.key in old)
        assert (change.after is not None) == (change.key in new)
        assert {ref.label for ref in (change.before, change.after) if ref} == {MASK}
    turned = [(change.key, change.after, change.before) for change in key_changes(C, MemoryStore(), new, old)]
    assert turned == [(change.key, change.before, change.after) for change in changes]


@given(st.text(alphabet="abchunter2", min_size=4, max_size=20), st.sampled_from(["password", "a.token", "DSN"]))
def test_a_secret_is_nowhere(secret: str, name: str) -> None:
    old = {name: Value("x", secret=True)}
    new = {name: Value(secret, secret=True), "other": Value(f"tcp://me:{secret}@host")}
    said = repr(
        [
            (c.key, c.before and c.before.label, c.after and c.after.label)
            for c in key_changes(C, MemoryStore(), old, new)
        ]
    )
    assert secret not in said.replace(name, "").replace("other", "")


@given(JSON)
def test_no_secret_is_left_in_a_masked_state(state: Any) -> None:
    found = masked({"plain": state, "db_password": state, "url": "tcp://me:hunter2@host"})
    assert found["url"] == MASK
    assert found["plain"] == masked(state)
    assert all(each in (MASK, None, True, False) for each in leaves(found["db_password"]))
    assert all(each in (MASK, None, True, False) for each in leaves(masked(state, secret=True)))


def leaves(state: Any) -> Iterator[Any]:
    if isinstance(state, dict):
        for each in state.values():
            yield from leaves(each)
    elif isinstance(state, list):
        for each in state:
            yield from leaves(each)
    else:
        yield state
