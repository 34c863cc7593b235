"""Environments into which wheels are installed alone, without a network: what else they ask for is taken from here.

Taken is exactly what their metadata asks for, in the versions of the lock, so that a requirement that is
missing from the metadata is missing there, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def run(*words: str | Path, cwd: Path | None = None, status: int = 0, **environment: str) -> str:
    """Run a command that has to end with `status`; return what it printed, errors included."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, f"{words} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def build(project: Path, folder: Path, target: str = "wheel", **environment: str) -> Path:
    """Build a project with what this environment has; return the wheel or the source archive."""
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder, cwd=project, **environment)
    (built,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


class Environment:
    """A new virtual environment. Attributes: bin: its folder of commands. packages: of its modules."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.bin = folder / "bin"
        (self.packages,) = folder.glob("lib/python3.*/site-packages")

    def install(self, *wheels: Path, extras: Iterable[str] = ()) -> None:
        """Install wheels by pip, and what their metadata asks for from here."""
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "-qq", "--disable-pip-version-check"]
        run(*pip, "install", "--no-deps", "--no-index", "--no-compile", *wheels)
        for wheel in wheels:
            name = wheel.name.partition("-")[0].replace("_", "-")
            (installed,) = Distribution.discover(name=name, path=[str(self.packages)])
            self._add(installed.requires or (), ["", *extras])

    def _add(self, requirements: Iterable[str], extras: Iterable[str]) -> None:
        for text in requirements:
            needed = Requirement(text)
            if needed.marker is not None and not any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                continue
            if any(Distribution.discover(name=needed.name, path=[str(self.packages)])):
                continue
            found = distribution(needed.name)
            for file in found.files or ():
                if ".." not in file.parts and file.locate().exists():  # what is compiled comes along, and saves time
                    target = self.packages / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _take(str(file.locate()), target)
            self._add(found.requires or (), ["", *needed.extras])


def _take(file: str, target: Path) -> None:
    # Nobody writes on installed files, and a link costs nothing; temporary files may lie on another file system.
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)
