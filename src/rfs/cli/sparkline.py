"""What was measured, drawn in letters, with the threshold marked. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-=+*%#"
_HALF = 4
_ROWS = 8


class Measured(Protocol):
    """What is drawn."""

    @property
    def measured(self) -> float | None: ...

    @property
    def error(self) -> str: ...


def sparkline(samples: Sequence[Measured], threshold: float, *, below: bool, width: int, plain: bool = False) -> str:
    """Return one line: the upper half of the letters is what lies beyond the threshold, the lower half what does not.

    Where nothing was measured there is a dot, and a cross where that failed. The newest is at the right.

    Args:
        below: small values are the bad ones.
        width: letters at most; of more samples the newest are shown.
        plain: in ASCII.
    """
    shown = samples[-width:]
    letters, nothing, failed = (PLAIN, " ", "x") if plain else (BLOCKS, "·", "×")
    sign = -1 if below else 1
    # Halves, and below quotients before differences: what is measured may be as large as numbers get.
    badness = [None if each.measured is None else sign * (each.measured / 2 - threshold / 2) for each in shown]
    worst = max([each for each in badness if each is not None and each > 0], default=0.0)
    best = -min([each for each in badness if each is not None and each <= 0], default=0.0)
    line = ""
    for each, sample in zip(badness, shown, strict=True):
        if each is None:
            line += failed if sample.error else nothing
        elif each > 0:
            line += letters[_HALF + min(_HALF - 1, int(_HALF * (each / worst)))]
        else:
            line += letters[_HALF - 1 - (min(_HALF - 1, int(_HALF * (-each / best))) if best else 0)]
    return line


def chart(samples: Sequence[Measured], threshold: float, *, below: bool, width: int, plain: bool = False) -> list[str]:
    """Return the lines of a chart with the threshold drawn through it; arguments as for `sparkline`.

    Of more samples than there are columns, each column shows the worst of a few.
    """
    columns = _columns([each.measured for each in samples], below=below, width=width)
    there = [each for each in columns if each is not None]
    low, high = min([*there, threshold]), max([*there, threshold])
    step = high / (_ROWS - 1) - low / (_ROWS - 1) or 1.0
    full, line = ("#", "-") if plain else ("█", "┄")
    marked = round(threshold / step - low / step)
    drawn = []
    for row in range(_ROWS - 1, -1, -1):
        cells = "".join(
            full if each is not None and round(each / step - low / step) >= row else line if row == marked else " "
            for each in columns
        )
        label = f"{threshold:g}" if row == marked else f"{low + row * step:.3g}" if row in (0, _ROWS - 1) else ""
        drawn.append(f"{label:>9}{'>' if row == marked else ' '} {cells}".rstrip())
    return drawn


def _columns(values: Sequence[float | None], *, below: bool, width: int) -> list[float | None]:
    many = max(1, math.ceil(len(values) / width))
    first = len(values) % many
    groups = [values[:first]] * bool(first) + [values[n : n + many] for n in range(first, len(values), many)]
    worst = min if below else max
    return [worst([each for each in group if each is not None], default=None) for group in groups]
