"""What `rfs watch` says of the application to Prometheus: figures of the store, read when somebody asks for them.

They come from the log and the catalog, so that a restart of the daemon sets nothing back to zero.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.listening import MetricsTable, parse_metrics
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.operation import DEPLOYMENT, EDIT, OPEN, Operation
from rfs.production.rollback.ruling import standings
from rfs.production.rollback.settings import Settings

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_BUCKETS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_CLIENT_SECONDS = 10.0
# Entries of the log that are over do not change: after so many known ones in a row, all older ones are.
_ENOUGH_KNOWN = 200
_STATES = ("ok", "failing", "tripped", "no data", "error", "unknown")


class Figures:
    """Collects the figures; a collector of prometheus_client.

    Args:
        config: the path of rfs.toml.
        turned: returns when the daemon last did its turn, UTC.
    """

    def __init__(self, config: str, turned: Callable[[], datetime]) -> None:
        self._config = config
        self._turned = turned
        self._known: dict[str, Operation] = {}
        self._busy = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Yield what is so now; where it cannot be read, that."""
        from prometheus_client.core import GaugeMetricFamily

        with self._busy:
            try:
                with Application.open(self._config) as app:
                    found = [*self._of_checkpoints(app), *self._of_operations(app), *self._of_the_rest(app)]
                    found += self._of_conditions(app)
            except RollbackError:  # the daemon's own turn says what is wrong
                found = []
        yield GaugeMetricFamily("rfs_up", "Whether rfs.toml and the store could be read.", value=float(bool(found)))
        turned = self._turned().timestamp()
        yield GaugeMetricFamily("rfs_watch_turn_timestamp_seconds", "When the daemon last looked.", value=turned)
        yield from found

    def _of_checkpoints(self, app: Application) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        counts = GaugeMetricFamily("rfs_checkpoints", "How many checkpoints there are.", labels=["type"])
        for kind, count in Counter(str(brief.type) for brief in app.catalog.briefs()).items():
            counts.add_metric([kind], count)
        yield counts
        latest = app.catalog.latest(safety=False)
        if latest is not None:
            age = (utc_now() - latest.created_at).total_seconds()
            yield GaugeMetricFamily("rfs_last_checkpoint_age_seconds", "How old the last checkpoint is.", value=age)

    def _of_operations(self, app: Application) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        self._learn(app)
        over = [each for each in self._known.values() if each.kind not in (DEPLOYMENT, EDIT)]
        labels = ["kind", "strategy", "outcome"]
        text = "Rollbacks, undos, redos and migrations that are over."
        total = CounterMetricFamily("rfs_rollbacks", text, labels=labels)
        for key, count in sorted(Counter((o.kind, str(o.strategy), str(o.status)) for o in over).items()):
            total.add_metric(list(key), count)
        yield total
        took = [(o.finished_at - o.created_at).total_seconds() for o in over if o.finished_at is not None]
        outages = [o.outage for o in over if o.outage is not None]
        for name, text, values in (
            ("rfs_rollback_duration_seconds", "From their beginning to their end.", took),
            ("rfs_rollback_outage_seconds", "From the stop of the services to their start.", outages),
        ):
            histogram = HistogramMetricFamily(name, text)
            histogram.add_metric([], _buckets(values), sum(values))
            yield histogram
        open_ = app.catalog.open_operation()
        gauge = GaugeMetricFamily("rfs_operation_open", "Whether an operation is running, or held.", labels=["status"])
        for status in sorted(OPEN):
            gauge.add_metric([str(status)], float(open_ is not None and open_.status is status))
        yield gauge

    def _learn(self, app: Application) -> None:
        in_a_row = 0
        for operation in app.catalog.history():
            if operation.operation_id in self._known:
                in_a_row += 1
                if in_a_row >= _ENOUGH_KNOWN:
                    break
                continue
            in_a_row = 0
            if operation.status not in OPEN:
                # What is long in it is of no use here.
                lean = msgspec.structs.replace(operation.plan, changes={}, losses=())
                self._known[operation.operation_id] = msgspec.structs.replace(operation, plan=lean, late=())

    def _of_conditions(self, app: Application) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        if not app.settings.conditions:
            return
        states = GaugeMetricFamily("rfs_condition_state", "1 for the state that it is in.", labels=["name", "state"])
        values = GaugeMetricFamily("rfs_condition_value", "What was measured last.", labels=["name"])
        for each in standings(app):
            for state in _STATES:
                states.add_metric([each.rule.name, state], float(each.state == state))
            if each.samples and (value := each.samples[-1].measured) is not None:
                values.add_metric([each.rule.name], value)
        yield from (states, values)

    def _of_the_rest(self, app: Application) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        size = float(_size_of(app.settings.store.path))
        yield GaugeMetricFamily("rfs_store_bytes", "The size of the store's files.", value=size)
        names = ["endpoint", "state"]
        outbox = GaugeMetricFamily("rfs_outbox_messages", "Notifications that were not sent.", labels=names)
        deliveries = app.catalog.deliveries()
        for name in sorted(app.catalog.endpoints()):
            for state in ("waiting", "dead"):
                of_it = [each for each in deliveries if each.endpoint == name and each.dead is (state == "dead")]
                outbox.add_metric([name, state], len(of_it))
        yield outbox
        waiting = Counter(str(each.status) for each in app.catalog.waiting_deferred())
        later = GaugeMetricFamily("rfs_deferred_rollbacks", "Rollbacks that are made later.", labels=["status"])
        for status in ("scheduled", "armed"):
            later.add_metric([status], waiting[status])
        yield later
        trial = app.catalog.open_deployment()
        deadline = trial.deadline if trial is not None else None
        yield GaugeMetricFamily("rfs_trial_open", "Whether a change is on trial.", value=float(trial is not None))
        if deadline is not None:
            at = deadline.timestamp()
            yield GaugeMetricFamily("rfs_trial_deadline_timestamp_seconds", "When it is decided.", value=at)


def _buckets(values: list[float]) -> list[tuple[str, float]]:
    found = [(f"{bound:g}", float(sum(value <= bound for value in values))) for bound in _BUCKETS]
    return [*found, ("+Inf", float(len(values)))]


def _size_of(folder: str) -> int:
    """Return the bytes of the files in a folder; what goes meanwhile does not count."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_size
    return total


class Exporter:
    """Answers Prometheus as rfs.toml says, in threads of its own. Args: config: the path of rfs.toml."""

    def __init__(self, config: str) -> None:
        self._config = config
        self._server: _Server | None = None
        self._table: MetricsTable | None = None
        self._turned = datetime.fromtimestamp(0, UTC)

    def turn(self, settings: Settings) -> None:
        """Note that the daemon is at work; begin, end, or move elsewhere, as rfs.toml says now.

        Raises:
            UsageError: `[metrics]` is wrong, or there can be nobody listening there.
            RollbackError: what it needs is not installed.
        """
        self._turned = utc_now()
        table = parse_metrics(settings)
        if table == self._table and (self._server is not None or table is None):
            return
        self.close()
        if table is not None:
            self._server = self._listening(table)
        self._table = table

    def _listening(self, table: MetricsTable) -> _Server:
        try:
            from prometheus_client import CollectorRegistry
        except ImportError as error:
            raise RollbackError("metrics.missing") from error
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Figures(self._config, lambda: self._turned))
        try:
            server = _Server(table.address, registry)
        except OSError as error:
            raise UsageError("metrics.listen", listen=table.listen, why=error.strerror or error) from error
        threading.Thread(target=server.serve_forever, name="rfs-metrics", daemon=True).start()
        return server

    def close(self) -> None:
        """End; the port is free when this returns."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self._table = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Whoever keeps a connection open must not keep the daemon from ending.
    block_on_close = False

    def __init__(self, address: tuple[str, int], registry: Any) -> None:
        import socket

        self.registry = registry
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Answer)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who went away while being answered is none of the daemon's business."""


class _Answer(BaseHTTPRequestHandler):
    timeout = _CLIENT_SECONDS
    server_version = "rfs"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        from prometheus_client.exposition import choose_encoder

        server = self.server
        assert isinstance(server, _Server)  # noqa: S101 — it is made by no other
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        body = encode(server.registry)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Its output is a line for each thing that the daemon did."""
