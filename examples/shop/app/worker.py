"""The worker process, `python -m app.worker`: ships what was reserved, and says so in log/orders.log."""

from __future__ import annotations

import logging
import signal
import threading
import time

from app import VERSION, checkout, database, settings
from app.database import Connection
from app.notify import notify

log = logging.getLogger("shop.worker")


def ship_one(connection: Connection) -> int | None:
    """Ship the oldest reserved order; return its id, or None when there is none."""
    with database.transaction(connection):
        row = connection.execute(
            "SELECT id, total_cents FROM orders WHERE status = 'reserved' ORDER BY id LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        connection.execute(
            "UPDATE orders SET status = 'shipped', shipped_at = ? WHERE id = ?", (int(time.time()), row["id"])
        )
        checkout.book(connection, row["id"], "bank", "receivable", row["total_cents"])
    return int(row["id"])


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    current = settings.load()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    orders_log = settings.ROOT / "log" / "orders.log"
    with database.opened(current.database) as connection, orders_log.open("a", encoding="utf-8") as orders:
        notify(f"READY=1\nSTATUS=worker {VERSION}")
        while not stopped.is_set():
            order = ship_one(connection)
            if order is None:
                stopped.wait(current.poll)
                continue
            orders.write(f"{int(time.time())} shipped {order}\n")
            orders.flush()
            log.info("order %d shipped", order)
            notify(f"STATUS=shipped {order}")


if __name__ == "__main__":
    main()
