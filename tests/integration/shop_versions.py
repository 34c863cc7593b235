"""Versions of the example shop that turn bad in one way each: `python shop_versions.py FOLDER KIND` deploys one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_BEGIN = "        try:\n            with database.opened"

# 18 of 256 are 7 %.
_FAILS = """\
            if path not in ('/health', '/metrics') and os.urandom(1)[0] < 18:
                raise RuntimeError('a bug of this version')
"""

# What each changes: file, what stood there, what stands there now.
VERSIONS = {
    "good": ("app/pages.py", "", ""),
    "fails": ("app/web.py", "            with database.opened", _FAILS + "            with database.opened"),
    "slow": ("app/web.py", _BEGIN, "        time.sleep(0.4 * (path not in ('/health', '/metrics')))\n" + _BEGIN),
    "leaks": ("app/web.py", _BEGIN, "        Shop.kept = [*getattr(Shop, 'kept', []), b'x' * 400_000]\n" + _BEGIN),
    "worker": (
        "app/worker.py",
        "        row = connection.execute(",
        "        return None\n        row = connection.execute(",
    ),
}


def deploy(folder: Path, kind: str) -> None:
    """Deploy a version over the shop in a folder, as a deployment script would."""
    name, old, new = VERSIONS[kind]
    _supervisorctl(folder, "stop", "all")
    init = folder / "app" / "__init__.py"
    init.write_text(init.read_text().replace("1.4.2", "1.5.0"))
    text = (folder / name).read_text()
    if text.count(old) != 1 and old:
        why = f"{name} has no {old!r}"
        raise ValueError(why)
    (folder / name).write_text(text.replace(old, new) if old else text)
    _supervisorctl(folder, "start", "all")


def _supervisorctl(folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(folder / "supervisord.conf"), *words]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    deploy(Path(sys.argv[1]), sys.argv[2])
