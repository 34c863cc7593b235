"""A driver for rfs: one JSON document behind HTTP. GET is its state, PUT brings one back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import msgspec

from rfs.plugin import (
    MASK,
    BlobSink,
    BlobSource,
    Capture,
    Change,
    ChangeKind,
    Component,
    Driver,
    Duration,
    Finding,
    Fingerprint,
    IntegrityError,
    Pulse,
    Ref,
    Restored,
    RollbackError,
    define_messages,
    is_secret_name,
    is_secret_value,
    parse_duration,
    resolve_secret,
)

FORMAT = 1

define_messages(
    "document",
    {
        "document.refused": (
            "{method} {url} failed: {why}.",
            "Start its server, or correct url and token of the component {component}.",
        ),
        "document.not_json": (
            "What {url} answers is not JSON: {why}.",
            "Correct the url of the component {component}.",
        ),
    },
)


class DocumentOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a document component.

    Attributes:
        url: where GET reads the document and PUT replaces it as a whole.
        token: a secret that is sent as "Authorization: Bearer …".
        timeout: for each request.
    """

    url: str
    token: str | None = None
    timeout: Duration = "10s"

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError("url begins with http:// or https://")
        parse_duration(self.timeout)


class DocumentDriver(Driver):
    """Captured is the document's meaning: members in one order, without white space."""

    kind = "document"
    options = DocumentOptions

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        text = _live(c, sink)
        part = sink.put_part([sink.put(text)], b"")
        return Capture(
            component=c.name,
            kind=self.kind,
            fingerprint=_identity(text),
            parts=(part,),
            entries=1,
            size=len(text),
            meta={"format": FORMAT},
        )

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        return _identity(_live(c))

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        wanted = _captured(source, want)
        if _live(c, source) == wanted:
            return Restored(changed=0)
        _request(c, "PUT", wanted, source)
        return Restored(changed=1)

    def examine(self, c: Component) -> Iterator[Finding]:
        try:
            _live(c)
        except RollbackError as error:
            yield Finding("error", str(error), error.hint)

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        before = _members(json.loads(_captured(source, a)))
        after = _members(json.loads(_captured(source, b) if b is not None else _live(c, source)))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                kind = ChangeKind.CHANGED
                if key not in before:
                    kind = ChangeKind.ADDED
                elif key not in after:
                    kind = ChangeKind.REMOVED
                sides = [_shown(source, key, members.get(key)) for members in (before, after)]
                yield Change(c.name, kind, key, *sides)


# — the document —


def _canonical(data: bytes, c: Component) -> bytes:
    try:
        return json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise RollbackError("document.not_json", url=_options(c).url, why=error, component=c.name) from error


def _identity(text: bytes) -> Fingerprint:
    return Fingerprint(sha256(text).hexdigest(), entries=1, size=len(text))


def _captured(source: BlobSource, want: Capture) -> bytes:
    if want.meta["format"] > FORMAT:
        raise IntegrityError("capture.newer", component=want.component, found=want.meta["format"], known=FORMAT)
    (blob,), _ = source.get_part(want.parts[0])
    return source.get(blob)


def _members(value: Any, place: str = "") -> dict[str, str]:
    """Return every leaf of a document as JSON, by its JSON pointer: {"/shop/currency": '"EUR"'}."""
    if not isinstance(value, dict) or not value:
        return {place: _printable(json.dumps(value, ensure_ascii=False))}
    leaves: dict[str, str] = {}
    for name, member in value.items():
        leaves |= _members(member, f"{place}/{_printable(name).replace('~', '~0').replace('/', '~1')}")
    return leaves


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()  # JSON may hold halves of characters


def _shown(source: BlobSource, place: str, leaf: str | None) -> Ref | None:
    if leaf is None:
        return None
    secret = is_secret_name(place) or is_secret_value(leaf)
    # The store's ids are keyed: from another digest somebody could guess a short secret.
    return Ref(source.identify(leaf.encode()).hex(), len(leaf), MASK if secret else leaf[:100])


# — HTTP —


def _options(c: Component) -> DocumentOptions:
    return msgspec.convert(dict(c.options), DocumentOptions)


def _live(c: Component, pulse: Pulse | None = None) -> bytes:
    return _canonical(_request(c, "GET", None, pulse), c)


def _request(c: Component, method: str, body: bytes | None, pulse: Pulse | None) -> bytes:
    import http.client  # 20 ms of start-up, which a command that only lists checkpoints need not pay
    import urllib.error
    import urllib.request

    options = _options(c)
    seconds = parse_duration(options.timeout)
    if pulse is not None:
        pulse.tick()
        seconds = min(seconds, pulse.remaining())
    request = urllib.request.Request(options.url, data=body, method=method)
    request.add_header("Content-Type", "application/json")
    if options.token is not None:
        request.add_header("Authorization", f"Bearer {resolve_secret(options.token, c.home)}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds) as answer:
            found: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an answer, too, and holds its connection
        why = str(error).rstrip(".") or type(error).__name__
        raise RollbackError("document.refused", method=method, url=options.url, why=why, component=c.name) from error
    return found
