"""`[metrics]`: where the daemon answers Prometheus. Pure."""

from __future__ import annotations

import msgspec

from rfs.production.rollback.settings import Settings, Source


class MetricsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where `rfs watch` answers Prometheus. Whoever can reach it can read the figures; there is no login.

    Attributes:
        listen: "HOST:PORT", "[::1]:PORT" for IPv6.
    """

    listen: str = "127.0.0.1:9911"

    def __post_init__(self) -> None:
        host, colon, port = self.listen.rpartition(":")
        if not (colon and host.strip("[]") and port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise ValueError('listen takes "HOST:PORT", "127.0.0.1:9911" for example')

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def parse_metrics(settings: Settings) -> MetricsTable | None:
    """Return what `[metrics]` describes, or None without it.

    Raises:
        UsageError: a key is unknown, or a value is not usable.
    """
    if settings.metrics is None:
        return None
    return Source(settings.path).convert(settings.metrics, MetricsTable, ("metrics",))
