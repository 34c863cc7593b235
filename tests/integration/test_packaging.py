"""What a user gets from the wheel: everything that is needed, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rfs

ROOT = Path(__file__).parents[2]
SLOW_TO_START = (
    "asyncio",
    "cryptography",
    "http.client",
    "ssl",
    "urllib.request",
    "xmlrpc.client",
    "zstandard",
    "rich",
)


def run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment into which the wheel was installed, as its metadata says."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", venv)
    pip = [venv / "bin" / "python", "-m", "pip", "-qq", "--disable-pip-version-check", "--no-input"]
    run(*pip, "install", "--constraint", ROOT / "requirements" / "lock.txt", wheel)
    run(*pip, "check")
    return venv / "bin"


def test_the_wheel_holds_the_package_its_types_and_the_shop(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert f"rfs_rollback-{rfs.__version__}-" in wheel.name
        assert {"rfs/py.typed", "rfs/cli/main.py", "rfs/demo/shop/install.py"} <= names
        shop = {f"rfs/demo/shop/{path}": path for path in tracked("examples/shop")}
        assert shop
        for name, path in shop.items():
            assert archive.read(name) == (ROOT / "examples" / "shop" / path).read_bytes(), name
        info = f"rfs_rollback-{rfs.__version__}.dist-info"
        assert f"{info}/licenses/LICENSE" in names
        assert "rfs = rfs.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
    strange = [name for name in names if not name.startswith(("rfs/", info)) or name.endswith((".pyc", ".db"))]
    assert strange == []


def tracked(folder: str) -> list[str]:
    return run("git", "ls-files", cwd=ROOT / folder).splitlines()


@pytest.mark.slow
def test_it_works_in_a_fresh_environment(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "rfs", "--version", cwd=tmp_path) == f"rfs {rfs.__version__}\n"
    assert "checkpoint" in run(installed / "rfs", "--help", cwd=tmp_path)
    drivers = run(
        installed / "python",
        "-W",
        "error",
        "-c",
        "from rfs.production.rollback.wiring import BUILT_IN, _drivers\n"
        "print(*sorted(kind + ':' + driver.kind for kind, driver in _drivers(set(BUILT_IN)).items()))",
        cwd=tmp_path,
    ).split()
    assert drivers == [f"{name}:{name}" for name in ("config", "environment", "files", "service", "sqlite")]
    shop = run(installed / "python", "-c", "from rfs.demo.shop import source; print(source())", cwd=tmp_path).strip()
    assert Path(shop).is_relative_to(installed.parent)
    run(installed / "python", Path(shop) / "install.py", tmp_path / "s")
    assert (tmp_path / "s" / "data" / "shop.db").stat().st_size > 100_000


@pytest.mark.slow
def test_the_demo_says_what_it_lacks(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run([installed / "rfs", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install supervisor" in done.stdout


def test_importing_it_loads_nothing_that_most_commands_do_not_need() -> None:
    code = "import sys, rfs.production.rollback; print(*sys.modules)"
    loaded = set(run(sys.executable, "-W", "error", "-c", code).split())
    assert "rfs.production.rollback" in loaded
    assert loaded.isdisjoint(SLOW_TO_START)


def test_the_public_names_are_there() -> None:
    code = "import rfs.production.rollback as r; print(*[name for name in r.__all__ if getattr(r, name) is None])"
    assert run(sys.executable, "-W", "error", "-c", code).strip() == ""
