"""What a user gets from the wheel: everything that is needed, and nothing else."""

from __future__ import annotations

import shutil
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path

import pytest
from fresh import ROOT, Environment, build, run

import rfs
from rfs.production.rollback.wiring import BUILT_IN

LIBRARY = "rfs/production/rollback/drivers/files/libbulk.so"
SLOW_TO_START = (
    "asyncio",
    "cryptography",
    "http",
    "socket",
    "ssl",
    "urllib",
    "xmlrpc",
    "zstandard",
    "rich",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel and what it needs; the last test adds what an extra asks for."""
    environment = Environment(tmp_path_factory.mktemp("fresh") / "venv")
    environment.install(wheel)
    return environment


def test_the_wheel_holds_the_package_its_types_and_the_shop(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert f"rfs_rollback-{rfs.__version__}-" in wheel.name
        assert {"rfs/py.typed", "rfs/cli/main.py", "rfs/plugin.py", "rfs/testing/suite.py"} <= names
        assert {"rfs/schema/rfs.schema.json", "rfs/demo/shop/install.py"} <= names
        shop = {f"rfs/demo/shop/{path}": path for path in tracked("examples/shop")}
        assert shop
        for name, path in shop.items():
            assert archive.read(name) == (ROOT / "examples" / "shop" / path).read_bytes(), name
        info = f"rfs_rollback-{rfs.__version__}.dist-info"
        assert f"{info}/licenses/LICENSE" in names
        assert "rfs = rfs.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
        metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
    strange = [name for name in names if not name.startswith(("rfs/", info)) or name.endswith((".pyc", ".db"))]
    assert strange == []
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_library_is_in_the_wheel_of_who_has_a_compiler(wheel: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("NOT TESTED: needs a C compiler")
    with zipfile.ZipFile(wheel) as archive:
        assert LIBRARY in archive.namelist()
    assert "-py3-none-linux_" in wheel.name  # any Python, but not any machine


@pytest.mark.slow
def test_without_a_compiler_the_wheel_is_for_every_machine_and_works(tmp_path: Path) -> None:
    source = tmp_path / "source"
    run("git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", source)
    built = build(source, tmp_path / "dist", CC="false")
    assert built.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(built) as archive:
        assert LIBRARY not in archive.namelist()
    environment = Environment(tmp_path / "venv")
    environment.install(built)
    code = "from rfs.production.rollback.drivers.files import bulk; print(type(bulk.bulk(many=True)).__name__)"
    assert run(environment.bin / "python", "-W", "error", "-c", code).strip() == "OneByOne"


def tracked(folder: str) -> list[str]:
    return run("git", "ls-files", cwd=ROOT / folder).splitlines()


@pytest.mark.slow
def test_the_source_archive_holds_all_that_is_tracked_and_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build(ROOT, tmp_path, "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("rfs_rollback-*/")
    missing = [name for name in tracked(".") if not (source / name).exists()]
    assert missing == []
    assert {"LICENSE", "tests", "docs", "Makefile"} <= {path.name for path in source.iterdir()}
    again = build(source, tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


@pytest.mark.slow
def test_the_wheel_alone_is_a_working_command_line(fresh: Environment, tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "config").mkdir(parents=True)
    (app / "config" / "app.toml").write_text('greeting = "hello"\n')
    (app / ".env").write_text("PASSWORD=hunter2\n")

    def rfs_(*words: str | Path) -> str:
        return run(fresh.bin / "rfs", *words, cwd=app, HOME=str(tmp_path), XDG_CONFIG_HOME="", PYTHONWARNINGS="error")

    assert rfs_("--version") == f"rfs {rfs.__version__}\n"
    assert "checkpoint" in rfs_("--help")
    # Root's default is a folder of the machine's, which the next run of this test would find there.
    rfs_("init", "--store", tmp_path / "store")
    assert "error" not in rfs_("doctor")
    rfs_("checkpoint", "-m", "before", "--tag", "v1")
    (app / "config" / "app.toml").write_text('greeting = "goodbye"\n')
    (app / ".env").unlink()
    assert "greeting" in rfs_("plan", "v1")
    rfs_("rollback", "v1", "--yes", "--reason", "a test")
    assert (app / "config" / "app.toml").read_text() == 'greeting = "hello"\n'
    assert (app / ".env").read_text() == "PASSWORD=hunter2\n"
    # Every driver that comes with it can be loaded, too, and the shop was taken along.
    code = "from rfs.production.rollback.wiring import BUILT_IN, _drivers; print(*sorted(_drivers(set(BUILT_IN))))"
    assert run(fresh.bin / "python", "-W", "error", "-c", code).split() == sorted(BUILT_IN)
    code = "from rfs.demo.shop import source; print(source())"
    assert Path(run(fresh.bin / "python", "-c", code, cwd=tmp_path).strip()).is_relative_to(fresh.packages)


@pytest.mark.slow
def test_the_extra_brings_what_the_demo_says_it_lacks(fresh: Environment, wheel: Path) -> None:
    extras = set(distribution("rfs-rollback").metadata.get_all("Provides-Extra", []))
    assert extras == {"conditions", "demo", "jsonschema", "metrics", "notify", "postgresql", "track"}
    assert "pip install 'rfs-rollback[demo]'" in run(fresh.bin / "rfs", "demo", status=2)
    fresh.install(wheel, extras=["demo"])
    # Now it goes on to the next question that it asks before it starts.
    assert "is not an empty folder" in run(fresh.bin / "rfs", "demo", "--dir", fresh.bin, status=2)


def test_importing_it_loads_nothing_that_most_commands_do_not_need() -> None:
    code = "import sys, rfs.production.rollback; print(*sys.modules)"
    loaded = set(run(sys.executable, "-W", "error", "-c", code).split())
    assert "rfs.production.rollback" in loaded
    assert loaded.isdisjoint(SLOW_TO_START)


def test_the_public_names_are_there() -> None:
    code = "import rfs.production.rollback as r; print(*[name for name in r.__all__ if getattr(r, name) is None])"
    assert run(sys.executable, "-W", "error", "-c", code).strip() == ""
