"""A query that Prometheus, or what speaks its HTTP API, answers with one number.

The API: https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

from rfs.production.rollback.sources.base import Figure, NoFigureError, Source, SourceContext, number, observations
from rfs.production.rollback.sources.http import ask, check_url, parsed

_SHOWN = 200


class Prometheus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Prometheus query.

    Attributes:
        prometheus: PromQL that gives one number: a scalar, or a vector of one series. No series, or NaN, is no data.
        count: PromQL that gives how many observations it stands for, for min_samples.
        server: its URL; it and the values of `headers` may be secrets: "env:NAME", "file:PATH", "cmd:…".
        headers: sent with the request.
        tls_verify: whether an https certificate must be valid.
    """

    prometheus: str
    count: str | None = None
    server: str = "http://127.0.0.1:9090"
    headers: dict[str, str] = {}
    tls_verify: bool = True

    def __post_init__(self) -> None:
        if not self.prometheus.strip():
            raise ValueError("prometheus takes a query")
        check_url(self.server)

    def open(self, context: SourceContext) -> Source:
        """See SourceSpec."""
        return _Queried(context, self)


class _Queried(Source):
    def __init__(self, context: SourceContext, spec: Prometheus) -> None:
        super().__init__(context)
        self._spec = spec

    def figure(self) -> Figure:
        value = self._query(self._spec.prometheus)
        if self._spec.count is None or value is None:
            return Figure(value)
        return Figure(value, observations(self._query(self._spec.count), "count"))

    def _query(self, query: str) -> float | None:
        spec = self._spec
        # With POST, as a long query fits into no URL.
        form = urlencode({"query": query, "timeout": f"{max(1, round(self.context.timeout * 1000))}ms"}).encode()
        answer = parsed(
            ask(
                self.context,
                spec.server,
                headers=spec.headers,
                tls_verify=spec.tls_verify,
                path="/api/v1/query",
                form=form,
                any_status=True,
            )
        )
        return _one(answer)


def _one(answer: Any) -> float | None:
    """Return the number in an answer; None without data. Raises NoFigureError."""
    if not isinstance(answer, dict) or "status" not in answer:
        raise NoFigureError("what it answered is not of Prometheus")
    if answer["status"] != "success":
        why = f"Prometheus refused the query: {str(answer.get('error', ''))[:_SHOWN]}"
        raise NoFigureError(why)
    try:
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind == "scalar":
            return number(result[1], "the result")
        if kind == "vector":
            if len(result) > 1:
                why = f"the query gives {len(result)} series; add sum(…), or select one"
                raise NoFigureError(why)
            return number(result[0]["value"][1], "the result") if result else None
    except (LookupError, TypeError):
        raise NoFigureError("what it answered is not of Prometheus") from None
    why = f"the query gives a {kind}, not one number"
    raise NoFigureError(why)
