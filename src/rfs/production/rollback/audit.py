"""The audit log as a chain: each entry holds the hash of the one before it. Pure.

An entry is one line of canonical JSON: keys sorted, no spaces, UTF-8, nothing but strings and whole numbers. Its hash
is the SHA-256 of that line without the hash itself. What a chain proves, and what not, is in docs/governance.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256

import msgspec

NOTHING = "0" * 64
"""What the first entry has for the hash of the one before it."""
TORN = "torn"
DAMAGE = "damage"
BEGAN = "began"
_FIELDS = ("n", "at", "when", "who", "what", "outcome", "subject", "detail", "key", "prev", "hash")


class Reach(msgspec.Struct, frozen=True):
    """How far a log is known to reach: so many entries, the last one's hash, and bytes."""

    count: int = 0
    head: str = NOTHING
    size: int = 0


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry says.

    Attributes:
        key: by which it is known that it was written already.
        when: it happened, ISO, UTC.
        who: did it; "" where that cannot be told any more.
        what: the kind of act.
        outcome: a word.
        subject: the id of what it is about.
        detail: more of it, by name.
    """

    key: str
    when: str
    who: str
    what: str
    outcome: str
    subject: str = ""
    detail: Mapping[str, str] = {}


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong. `line` counts from 1; 0 is the log as a whole."""

    line: int
    what: str


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What reading a log found.

    Attributes:
        entries: that are whole.
        head: the hash of the last of them.
        findings: what is wrong.
        notes: what is odd, and explained.
    """

    entries: int
    head: str
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


def canonical(value: Mapping[str, object]) -> bytes:
    """Return JSON that has only this one form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def lines_of(facts: Sequence[Fact], reach: Reach, at: str) -> tuple[bytes, Reach]:
    """Return the entries of some facts as lines, and how far the log reaches with them.

    Args:
        reach: of the log as it is.
        at: when they are written, ISO, UTC.
    """
    data = b""
    count, head = reach.count, reach.head
    for fact in facts:
        count += 1
        entry: dict[str, object] = {**msgspec.to_builtins(fact), "n": count, "at": at, "prev": head}
        head = sha256(canonical(entry)).hexdigest()
        data += canonical({**entry, "hash": head}) + b"\n"
    return data, Reach(count, head, reach.size + len(data))


def entry_of(line: bytes) -> dict[str, object] | None:
    """Return the entry that a line is; None where it is none, or not as it was written."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict) or sorted(found) != sorted(_FIELDS) or not isinstance(found["n"], int):
        return None
    body = {key: value for key, value in found.items() if key != "hash"}
    try:
        whole = canonical(found) == line and sha256(canonical(body)).hexdigest() == found["hash"]
    except UnicodeEncodeError:  # a surrogate that JSON spells out, and UTF-8 has not
        return None
    return found if whole else None


def follow(data: bytes, reach: Reach) -> tuple[Reach, frozenset[str], bytes] | None:
    """Follow the chain beyond where it was known to reach.

    Args:
        data: what stands behind that.

    Returns:
        How far it reaches now, the keys of what was found, and what is left behind the last newline;
        None when it does not go on from there.
    """
    *lines, rest = data.split(b"\n")
    keys: set[str] = set()
    count, head = reach.count, reach.head
    for number, line in enumerate(lines, 1):
        entry = entry_of(line)
        if entry is None and _explained(line, lines[number:]):
            continue
        if entry is None or entry["prev"] != head or entry["n"] != count + 1:
            return None
        count, head = count + 1, str(entry["hash"])
        keys.add(str(entry["key"]))
    return Reach(count, head, reach.size + len(data) - len(rest)), frozenset(keys), rest


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, as entries about damage have it."""
    return sha256(data).hexdigest()


def verify(data: bytes | None, known: Reach | None, heads: Sequence[str] = ()) -> Verified:
    """Read a whole log and say what is wrong with it.

    Args:
        data: of the file; None where there is none.
        known: how far it reached when rfs last wrote to it, as the catalog has it.
        heads: hashes that somebody noted elsewhere: each must be that of an entry.
    """
    findings: list[Finding] = []
    notes: list[str] = []
    hashes: dict[int, str] = {}
    *lines, rest = (data or b"").split(b"\n")
    count, head = 0, NOTHING
    for number, line in enumerate(lines, 1):
        entry = entry_of(line)
        if entry is None:
            if _explained(line, lines[number:]):
                notes.append(f"Line {number} was interrupted while it was written; the entry after it says so.")
            else:
                findings.append(Finding(number, "is no entry, or was edited"))
            continue
        if entry["prev"] != head:
            findings.append(Finding(number, "does not follow the one before it: something was removed, added or moved"))
        elif entry["n"] != count + 1:
            findings.append(Finding(number, f"has the number {entry['n']}, and should have {count + 1}"))
        if entry["what"] == DAMAGE:
            findings.append(Finding(number, f"tells of damage that rfs met at {entry['at']}"))
        count, head = int(str(entry["n"])), str(entry["hash"])
        hashes[count] = head
    if rest:
        notes.append("The last line is not whole: it is being written, or that was interrupted.")
    findings += _missing(data, known, hashes, heads)
    return Verified(entries=len(hashes), head=head, findings=tuple(findings), notes=tuple(notes))


def _missing(data: bytes | None, known: Reach | None, hashes: Mapping[int, str], heads: Sequence[str]) -> list[Finding]:
    findings = []
    if known is not None and data is None:
        findings.append(Finding(0, f"the file is gone; it had {known.count} entries"))
    elif known is not None and hashes.get(known.count, NOTHING) != known.head:
        found = max(hashes, default=0)
        what = (
            f"its end is not the one that rfs wrote: entry {known.count} was {known.head[:12]}…; it has {found} entries"
        )
        findings.append(Finding(0, what))
    there = set(hashes.values())
    findings += [
        Finding(0, f"no entry has the hash {head}, which was noted elsewhere") for head in heads if head not in there
    ]
    return findings


def _explained(line: bytes, after: Sequence[bytes]) -> bool:
    """Tell whether the next entry says that this line was torn by a crash."""
    entry = entry_of(after[0]) if after else None
    if entry is None or entry["what"] != TORN:
        return False
    detail = entry["detail"]
    return isinstance(detail, dict) and detail.get("sha256") == digest(line)
