"""Changes three settings of an installed shop and tracks each: `python night_shift.py FOLDER`.

So an application would do that has a page for its settings. Each change is one edit of the file, told to rfs with
what was there before, so that any one of them can be taken back alone.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from rfs.production.rollback import IncrementalRollback

CHANGES = (
    ("shipping.flat_cents", "flat_cents = 490\n", "flat_cents = 590\n", 490, 590),
    ("shop.currency", 'currency = "EUR" ', 'currency = "EURO" ', "EUR", "EURO"),  # which no bank knows
    ("worker.poll_seconds", "poll_seconds = 0.2\n", "poll_seconds = 0.5\n", 0.2, 0.5),
)


async def change(folder: Path) -> None:
    """Make the changes, one after the other."""
    path = folder / "config" / "settings.toml"
    tracked = IncrementalRollback(folder)
    for key, before, after, old, new in CHANGES:
        text = path.read_text(encoding="utf-8")
        assert before in text, key
        path.write_text(text.replace(before, after), encoding="utf-8")
        (await tracked.track_change("configuration", "night shift", old, new, key=key)).unwrap()


if __name__ == "__main__":
    asyncio.run(change(Path(sys.argv[1])))
