"""Deploys a small release over an installed shop: `python deploy_version.py FOLDER KIND`.

Each but the good one turns bad in one way only, which no health check sees: some requests fail, all are slow, memory
is lost, or nothing is shipped any more.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploy_v2 import supervisorctl
from install import mark_release

_BEGIN = "        try:\n            with database.opened"

# 18 of 256 are 7 %.
_FAILS = """\
            if path not in ('/health', '/metrics') and os.urandom(1)[0] < 18:
                raise RuntimeError('a bug of this version')
"""

# What each changes: file, what stood there, what stands there now.
KINDS = {
    "good": ("static/style.css", "body {", "body { scroll-behavior: smooth;"),
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
    """Deploy a release of version 1 over the shop in `folder`; supervisord runs there.

    Raises:
        subprocess.CalledProcessError: supervisorctl could not stop or start the programs.
    """
    name, old, new = KINDS[kind]
    version = "1.6.0" if kind == "good" else "1.5.0"
    supervisorctl(folder, "stop", "all")
    change(folder / "app" / "__init__.py", "1.4.2", version)
    change(folder / name, old, new)
    mark_release(folder / "app", version)
    supervisorctl(folder, "start", "all")
    print(f"Version {version} is deployed.")


def change(path: Path, old: str, new: str) -> None:
    """Put one text in the place of another, which is there once."""
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{path} has no {old!r}")
    path.write_text(text.replace(old, new), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in KINDS:
        sys.exit(f"usage: python deploy_version.py FOLDER {'|'.join(KINDS)}")
    deploy(Path(sys.argv[1]).resolve(), sys.argv[2])
