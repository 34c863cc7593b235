"""Where the statements of a script are, and which of them would end the transaction around it."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.sqltext import in_one_transaction, statements

HARMLESS = [
    "DROP TABLE a",
    "INSERT INTO t VALUES ('x; COMMIT; y', \"a;b\")",
    "SELECT $$ COMMIT; $$, $tag$ ; BEGIN; $tag$",
    "SELECT E'it\\'s; ROLLBACK;'",
    "ROLLBACK TO SAVEPOINT s",
    "PREPARE q AS SELECT 1",
    "SELECT /* COMMIT; /* nested; */ ; */ 1",
    "SELECT 1 -- COMMIT;\n",
    "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE WHEN 1 THEN 2 END; DELETE FROM b; END",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END",
    "SELECT [a b] FROM `c;d`",
    "UPDATE t SET begin_at = 1, commit = 2",
]
FORBIDDEN = [
    "COMMIT",
    "commit work",
    "ROLLBACK",
    "ABORT",
    "END",
    "BEGIN",
    "START TRANSACTION",
    "PREPARE TRANSACTION 'x'",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_each_is_one_statement(text: str) -> None:
    assert len(list(statements(f"{text};\n;;  {text} ; -- end"))) == 2
    assert in_one_transaction(f"{text};", "it") == f"{text};"


@given(st.lists(st.sampled_from(HARMLESS), min_size=1, max_size=6), st.sampled_from(["\n", " ", ";;\n"]))
def test_what_is_taken_apart_is_all_of_it(texts: list[str], between: str) -> None:
    script = ";".join(f"{between}{text}\n" for text in texts) + ";"
    found = list(statements(script))
    assert [each.rstrip(";").strip() for each in found] == [text.strip() for text in texts]


@given(st.lists(st.sampled_from(HARMLESS), min_size=1, max_size=4), st.sampled_from(["BEGIN", "begin transaction"]))
def test_a_transaction_around_all_of_it_is_taken_off(texts: list[str], begin: str) -> None:
    inner = ";\n".join(texts) + ";\n"
    plain = in_one_transaction(f"-- down\n{begin};\n{inner}COMMIT;", "it")
    assert plain.strip() == inner.strip()


@given(
    st.lists(st.sampled_from(HARMLESS), min_size=1, max_size=4),
    st.sampled_from(FORBIDDEN),
    st.integers(0, 4),
)
def test_one_that_ends_a_transaction_is_found_wherever_it_stands(texts: list[str], wrong: str, where: int) -> None:
    texts.insert(min(where, len(texts)), wrong)
    with pytest.raises(UsageError) as caught:
        in_one_transaction(";\n".join(texts) + ";", "The script")
    assert caught.value.key == "migration.transaction"
    assert wrong.split(maxsplit=1)[0].upper() in str(caught.value)


@given(st.text("abc;'\"$-/*\n[]`eE\\ ", max_size=40))
def test_no_text_is_too_odd(text: str) -> None:
    """Whatever it is: nothing but blanks, comments and semicolons falls between the statements."""
    at = 0
    for each in statements(text):
        at = text.index(each, at) + len(each)
    assert at <= len(text)


@given(st.lists(st.sampled_from(["'a;b'", '";"', "/* ; */", "-- ;\n", "1", ";", " SELECT "]), max_size=12))
def test_sqlite_sees_the_same_ends(tokens: list[str]) -> None:
    """SQLite itself says whether a text ends with a whole statement; it has the last word."""
    text = "SELECT " + " ".join(tokens)
    whole = sqlite3.complete_statement(text)
    found = list(statements(text))
    assert whole == found[-1].endswith(";")
