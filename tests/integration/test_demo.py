"""`rfs demo`: the whole story on the real command line, and how it ends when it cannot."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from rfs.demo import story
from rfs.demo.shop import ShopError
from rfs.demo.story import rfs_command

SECONDS = 120
AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "HOME=/nonexistent")
HARM_A_ROW = (
    'import sqlite3; c = sqlite3.connect("data/shop.db"); '
    'c.execute("UPDATE customers SET phone = NULL WHERE id = 7"); c.commit()'
)
FAILING = "import sys; from rfs.demo import story; story.rfs_command = lambda: ['false']; sys.exit(story.run())"


@pytest.fixture
def base() -> Iterator[Path]:
    # pytest's own folders have paths too long for the socket in the shop's folder.
    with tempfile.TemporaryDirectory(prefix="rfs-demo-test-") as folder:
        yield Path(folder)


def belonging_to(base: Path) -> dict[int, str]:
    """Return the processes that were started with the demo's folder in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"XDG_CONFIG_HOME=" + os.fsencode(base) in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue
    return found


def environment(base: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(base)}


def tell(base: Path, *words: str, before: Sequence[str] = (), seconds: int = 60) -> str:
    """Let the whole story be told, and see that each claim held and nothing is left; return what it said."""
    done = subprocess.run(
        [*before, *rfs_command(), "demo", *words],
        env=environment(base),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "✗" not in done.stdout
    told = re.search(r"(\d+) claims, each checked, in (\d+) s\.", done.stdout)
    assert told is not None
    assert int(told[1]) == done.stdout.count("✓") >= 15
    assert int(told[2]) < seconds
    for command in ("rfs init", "rfs checkpoint", "rfs plan", "rfs rollback", "rfs undo", "rfs log"):
        assert f"$ {command}" in done.stdout
    assert list(base.iterdir()) == []
    assert working_in(base) == {}
    return done.stdout


@pytest.mark.slow
def test_every_claim_of_the_story_holds(base: Path) -> None:
    tell(base)


def working_in(base: Path) -> dict[int, str]:
    """Return the processes whose folder is in the demo's: those of a server tell their environment to nobody."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").readlink().is_relative_to(base):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue
    return found


@pytest.fixture
def open_base(base: Path) -> Path:
    """One that the user can reach who owns the server when the demo is root's."""
    base.chmod(0o755)
    return base


@pytest.mark.slow
def test_the_story_on_postgresql(open_base: Path) -> None:
    said = tell(open_base, "--db", "postgresql", seconds=90)
    assert "$ rfs db salvage --table orders" in said
    assert "it brings out exactly the 1 order that only version 2 had" in said


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="it is root who can become somebody else")
def test_the_story_on_postgresql_as_somebody_without_privileges(open_base: Path) -> None:
    try:
        subprocess.run([*AS_NOBODY, sys.executable, "-c", "import rfs"], capture_output=True, check=True)
    except subprocess.CalledProcessError:
        pytest.skip("nobody can read this Python")
    shutil.chown(open_base, "nobody")
    tell(open_base, "--db", "postgresql", before=AS_NOBODY, seconds=90)


@contextmanager
def begun(base: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a demo whose shop is running."""
    demo = subprocess.Popen(
        [*rfs_command(), "demo", *words],
        env=environment(base),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    with demo, demo.stdout as lines:
        try:
            assert any("It runs at" in line for line in lines)
            yield demo
        finally:
            demo.kill()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_an_interrupted_demo_leaves_nothing_behind(base: Path, number: signal.Signals, code: int) -> None:
    with begun(base) as demo:
        assert len(belonging_to(base)) >= 3
        demo.send_signal(number)
        assert demo.wait(SECONDS) == code
    assert belonging_to(base) == {}
    assert list(base.iterdir()) == []


@pytest.mark.slow
def test_a_killed_demo_takes_its_shop_along(base: Path) -> None:
    with begun(base) as demo:
        handles = [os.pidfd_open(pid) for pid in belonging_to(base)]
        assert len(handles) >= 3
        demo.kill()
        while handles:
            ended, _, _ = select.select(handles, [], [], 20)
            assert ended, belonging_to(base)
            for handle in ended:
                os.close(handle)
                handles.remove(handle)


@pytest.mark.slow
def test_a_killed_demo_takes_its_server_along(open_base: Path) -> None:
    with begun(open_base, "--db", "postgresql") as demo:
        servers = [os.pidfd_open(pid) for pid in working_in(open_base)]
        assert servers
        demo.kill()
        for server in servers:
            assert select.select([server], [], [], 20)[0], working_in(open_base)
            os.close(server)
    assert working_in(open_base) == {}


@pytest.mark.slow
def test_a_claim_that_fails_fails_the_demo_and_ends_the_shop(base: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILING],
        env=environment(base),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "✗ rfs init succeeds" in done.stdout
    assert "✓ every process of the demo has ended" in done.stdout
    assert belonging_to(base) == {}
    assert list(base.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "claim"),
    [
        ("touch config/settings.toml", "✗ 60 files, folders and links are as they were at the checkpoint"),
        (f"{sys.executable} -c '{HARM_A_ROW}'", "rows and the schema are as they were at the checkpoint"),
    ],
)
def test_a_rollback_that_is_not_exact_is_found_out(base: Path, harm: str, claim: str) -> None:
    rfs = base / "rfs"
    real = shlex.join(rfs_command())
    rfs.write_text(f'#!/bin/sh\n{real} "$@" || exit\n[ "$1" != rollback ] || {harm}\n')
    rfs.chmod(0o755)
    code = f"import sys; from rfs.demo import story; story.rfs_command = lambda: [{str(rfs)!r}]; sys.exit(story.run())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(base),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    (failed,) = [line for line in done.stdout.splitlines() if "✗" in line]
    assert claim in failed
    assert belonging_to(base) == {}


def test_a_folder_that_holds_something_is_left_alone(base: Path) -> None:
    (base / "thesis.txt").write_text("x")
    done = subprocess.run([*rfs_command(), "demo", "--dir", base], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, f"{base} is not an empty folder. Name a new one with --dir.\n")
    assert os.listdir(base) == ["thesis.txt"]


def test_the_suggested_health_check_is_taken_out_of_its_comment() -> None:
    text = '[app]\n#   [[health]]\n#   name = "http"\n#   http = "x"\n#   required = true\n# a comment\n'
    taken = story.uncommented(text, story.HEALTH_LINES)
    assert taken == '[app]\n[[health]]\nname = "http"\nhttp = "x"\nrequired = true\n# a comment\n'
    with pytest.raises(ShopError, match="suggests no"):
        story.uncommented("[app]\n", story.HEALTH_LINES)
