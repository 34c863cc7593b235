"""Statements in a text of SQL, as far as a script's transactions are concerned: pure, for PostgreSQL and SQLite."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rfs.production.rollback.errors import UsageError

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*)
    | (?P<comment>/\*)
    | (?P<dollar>\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$)
    | (?P<escape>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]\[;'"]*\])
    | (?P<word>[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)
    | (?P<end>;)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_OPENS = {"BEGIN", "START"}
_CLOSES = {"COMMIT", "END"}
_INDEXES = {"CREATE", "DROP", "REINDEX", "ALTER"}
_OTHER_CONTROL = {"ROLLBACK", "ABORT", "PREPARE"}


def in_one_transaction(script: str, what: str) -> str:
    """Return a script that can be run inside a transaction: without a BEGIN and COMMIT around all of it.

    Args:
        script: SQL.
        what: whose it is, for the error.

    Raises:
        UsageError: it begins or ends transactions in its midst, which would end the one around it.
    """
    found = list(_statements(script))
    if len(found) >= 2 and _is_plain(found[0][2], _OPENS) and _is_plain(found[-1][2], _CLOSES):
        script = script[found[0][1] : found[-1][0]]
        found = found[1:-1]
    for _, _, words in found:
        control = words[:1] and words[0] in _OPENS | _CLOSES | _OTHER_CONTROL
        if (
            control
            and not (words[0] == "PREPARE" and words[1:2] != ["TRANSACTION"])
            and words[:2] != ["ROLLBACK", "TO"]
        ):
            raise UsageError("migration.transaction", what=what, statement=words[0])
    return script


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, each with its semicolon; comments before it are left out."""
    for begin, end, _ in _statements(script):
        yield script[begin:end]


def alone(script: str, words: frozenset[str]) -> bool:
    """Tell whether something in a script can run in no transaction.

    Args:
        words: what such statements begin with, one word or two; CONCURRENTLY stands further on, where an index is
            made or dropped or a partition detached.
    """
    for _, _, found in _statements(script):
        if found[:1] and (found[0] in words or " ".join(found[:2]) in words):
            return True
        if "CONCURRENTLY" in words and found[:1] and found[0] in _INDEXES and "CONCURRENTLY" in found[:6]:
            return True
    return False


def _is_plain(words: list[str], verbs: set[str]) -> bool:
    return (
        bool(words)
        and words[0] in verbs
        and set(words[1:]) <= {"TRANSACTION", "WORK", "IMMEDIATE", "EXCLUSIVE", "DEFERRED"}
    )


def _statements(script: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yield where each statement begins and ends, and its words in capitals; a body is part of its statement."""
    begin, depth, at = 0, 0, 0
    words: list[str] = []
    seen = False
    while at < len(script):
        token = _TOKEN.match(script, at)
        assert token is not None  # noqa: S101  # the last alternative takes anything
        at = token.end()
        kind = token.lastgroup
        if kind == "comment":
            at = _end_of_comment(script, at)
        elif kind == "dollar":
            closed = script.find(token[0], at)
            at = len(script) if closed < 0 else closed + len(token[0])
        elif kind == "end" and depth == 0:
            if seen:
                yield begin, at, words
            begin, words, seen = at, [], False
            continue
        elif kind == "word":
            words.append(token[0].upper())
            depth += _deeper(words, depth)
        if kind not in ("space", "comment") and not seen:
            begin, seen = token.start(), True
    if seen:
        yield begin, at, words


def _deeper(words: list[str], depth: int) -> int:
    """Return by how much the last word opens or closes: only a CREATE has a body, and CASE has an END as well."""
    if words[0] != "CREATE" or not {"TRIGGER", "FUNCTION", "PROCEDURE"} & set(words[:6]):
        return 0
    word = words[-1]
    if word == "BEGIN" or (word == "CASE" and depth):
        return 1
    return -1 if word == "END" and depth else 0


def _end_of_comment(script: str, at: int) -> int:
    """Return where a comment ends; PostgreSQL lets them nest, SQLite does not, and few scripts have one in another."""
    depth = 1
    for found in re.finditer(r"/\*|\*/", script[at:]):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return at + found.end()
    return len(script)
