"""What /metrics tells Prometheus: requests by status, how long they took, and how much memory the process has."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_lock = threading.Lock()
_statuses: Counter[int] = Counter()
_buckets: Counter[float] = Counter()
_seconds = 0.0


def count(status: int, seconds: float) -> None:
    """Count one request."""
    global _seconds  # noqa: PLW0603 - the counters are the process's
    with _lock:
        _statuses[status] += 1
        _seconds += seconds
        for bound in BUCKETS:
            _buckets[bound] += seconds <= bound


def text() -> str:
    """Return the figures as Prometheus reads them."""
    with _lock:
        total = sum(_statuses.values())
        lines = [f'shop_requests_total{{status="{status}"}} {number}' for status, number in sorted(_statuses.items())]
        lines += [f'shop_request_seconds_bucket{{le="{bound}"}} {_buckets[bound]}' for bound in BUCKETS]
        lines += [f'shop_request_seconds_bucket{{le="+Inf"}} {total}', f"shop_request_seconds_count {total}"]
        lines += [f"shop_request_seconds_sum {_seconds:.6f}"]
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    lines += [f"process_resident_memory_bytes {pages * os.sysconf('SC_PAGE_SIZE')}"]
    return "\n".join([*lines, ""])
