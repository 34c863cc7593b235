"""How long the command line takes to start, against a bare interpreter.

Processor time, the least of several runs: processes beside it take caches away, and so time, but
they never give any.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.measure import run
from benchmarks.tools import RFS

LIMITS = {"--version": 4.5, "status": 9.0}
_ROUNDS = 15


def ratios(place: Path) -> dict[str, float]:
    """Measure `rfs --version` and `rfs status` on a small application, alternating with `python -c pass`.

    Args:
        place: a folder that does not exist yet; it gets the application and its store.

    Returns:
        By command, its processor time divided by the bare interpreter's.

    Raises:
        RuntimeError: a command failed; with the end of what it said.
    """
    place.mkdir()
    (place / "settings.toml").write_text("[server]\nworkers = 4\n")
    (place / ".env").write_text("COLOUR=green\n")
    env = {"HOME": str(place / "home"), "PYTHONPYCACHEPREFIX": str(place / "compiled")}
    run([RFS, "init", "--yes", "--store", str(place / "store")], cwd=place, env=env)
    run([RFS, "checkpoint", "-q"], cwd=place, env=env)
    commands = {"": [sys.executable, "-c", "pass"], **{word: [RFS, word] for word in LIMITS}}
    least = dict.fromkeys(commands, float("inf"))
    for _ in range(_ROUNDS):
        for word, argv in commands.items():
            least[word] = min(least[word], run(argv, cwd=place, env=env)[0].cpu)
    return {word: least[word] / least[""] for word in LIMITS}


if __name__ == "__main__":
    import tempfile

    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        for word, ratio in ratios(Path(folder) / "app").items():
            print(f"rfs {word}: {ratio:.1f} × python -c pass (at most {LIMITS[word]})")
