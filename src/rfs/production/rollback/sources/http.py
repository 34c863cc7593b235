"""A number in what a URL answers."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from rfs.production.rollback.secret import resolve_secret
from rfs.production.rollback.sources.base import (
    LIMIT,
    Figure,
    NoFigureError,
    Source,
    SourceContext,
    number,
    observations,
)

SECRETS = ("env:", "file:", "cmd:")
_STEP = re.compile(r"""\.(?P<name>[^\W\d][\w-]*)|\[(?P<index>-?\d+)\]|\[(?P<quote>['"])(?P<key>.*?)(?P=quote)\]""")

Steps = tuple[str | int, ...]


class Http(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An HTTP answer.

    Attributes:
        http: a URL that is asked with GET and must answer 200 to 299; redirects are not followed. It and the values of
            `headers` may be secrets: "env:NAME", "file:PATH", "cmd:…".
        jsonpath: where in the JSON that it answers the number is, such as "$.errors.rate", "$.nodes[0].load" or
            "$['with spaces']"; without it the whole answer is the number.
        count: where in it is how many observations the number stands for.
        headers: sent with the request.
        tls_verify: whether an https certificate must be valid.
    """

    http: str
    jsonpath: str | None = None
    count: str | None = None
    headers: dict[str, str] = {}
    tls_verify: bool = True

    def __post_init__(self) -> None:
        check_url(self.http)
        if self.count is not None and self.jsonpath is None:
            raise ValueError("count belongs to jsonpath")
        for path in (self.jsonpath, self.count):
            if path is not None:
                steps(path)

    def open(self, context: SourceContext) -> Source:
        """See SourceSpec."""
        return _Answered(context, self)


class _Answered(Source):
    def __init__(self, context: SourceContext, spec: Http) -> None:
        super().__init__(context)
        self._spec = spec

    def figure(self) -> Figure:
        spec = self._spec
        body = ask(self.context, spec.http, headers=spec.headers, tls_verify=spec.tls_verify)
        if spec.jsonpath is None:
            text = body.decode(errors="replace").strip()
            return Figure(number(text, "what it answered") if text else None)
        answer = parsed(body)
        value = number(found(answer, spec.jsonpath), spec.jsonpath)
        return Figure(value, 1 if spec.count is None else observations(found(answer, spec.count), spec.count))


def check_url(url: str) -> None:
    """Refuse what is no URL. Raises ValueError."""
    from rfs.production.rollback.http_request import parse_url

    if not url.startswith(SECRETS) and parse_url(url).scheme == "unix":
        raise ValueError("it takes http:// or https://")


def ask(
    context: SourceContext,
    url: str,
    *,
    headers: dict[str, str],
    tls_verify: bool,
    path: str = "",
    form: bytes | None = None,
    any_status: bool = False,
) -> bytes:
    """Return the body of an answer.

    Args:
        url: may be a secret, as the values of `headers` may.
        path: added to the path of the URL.
        form: sent as a form, with POST.
        any_status: take what else than 200 to 299 answers a body in JSON, too.

    Raises:
        NoFigureError, RollbackError: there was none. The text holds no secret.
    """
    from rfs.production.rollback.http_request import RequestError, parse_url, request

    try:
        address = parse_url(resolve_secret(url, context.home))
    except ValueError as error:
        raise NoFigureError(str(error)) from None
    if path:
        base, _, query = address.target.partition("?")
        target = base.rstrip("/") + path + (f"?{query}" if query else "")
        address = msgspec.structs.replace(address, target=target)
    sent = {name: resolve_secret(value, context.home) for name, value in headers.items()}
    if form is not None:
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    try:
        response = request(
            address,
            timeout=context.timeout,
            method="GET" if form is None else "POST",
            headers=sent,
            body=form,
            limit=LIMIT + 1,
            tls_verify=tls_verify,
        )
    except RequestError as error:
        why = f"{address}: {error}"
        raise NoFigureError(why) from error
    if not 200 <= response.status <= 299 and not (any_status and response.body.startswith(b"{")):
        why = f"{address} answered {response.status}"
        raise NoFigureError(why)
    if len(response.body) > LIMIT:
        why = f"{address} answered more than {LIMIT >> 20} MiB"
        raise NoFigureError(why)
    return response.body


def parsed(body: bytes) -> Any:
    """Return JSON. Raises NoFigureError."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NoFigureError("what it answered is no JSON") from None


def steps(path: str) -> Steps:
    """Return the keys and positions of a path such as "$.a.b[0]['c d']". Raises ValueError."""
    if path.startswith("$"):
        at, words = 1, []
        while match := _STEP.match(path, at):
            word = match["name"] if match["name"] is not None else match["key"]
            words.append(int(match["index"]) if word is None else word)
            at = match.end()
        if at == len(path):
            return tuple(words)
    why = f'{path!r} is no path to one value; write "$.errors.rate", "$.nodes[0]" or "$[\'any key\']"'
    raise ValueError(why)


def found(answer: Any, path: str) -> Any:
    """Return what lies at a path.

    Raises:
        NoFigureError: there is nothing.
    """
    for word in steps(path):
        try:
            answer = answer[word]
        except (LookupError, TypeError):
            why = f"there is no {path} in what it answered"
            raise NoFigureError(why) from None
    return answer
