"""Patterns mean what they mean in a .gitignore; git itself is asked where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfs.production.rollback.drivers.files.patterns import Patterns


def matches(lines: list[str], path: str) -> bool:
    """Tell whether a path, or a folder above it, matches; a final slash makes it a folder."""
    patterns = Patterns(lines)
    parts = path.rstrip("/").split("/")
    for at, name in enumerate(parts):
        is_folder = at < len(parts) - 1 or path.endswith("/")
        folder = "/".join(parts[:at])
        if patterns.match(folder, name, is_folder=is_folder):
            return True
    return False


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.log", ["a.log", "d/b.log", ".log"], ["a.logs", "log"]),
        ("tmp/", ["tmp/", "a/tmp/", "tmp/x"], ["tmp", "a/tmp", "tmp2/"]),
        ("/build", ["build", "build/", "build/x"], ["a/build"]),
        ("var/cache", ["var/cache", "var/cache/x"], ["a/var/cache", "var/cached"]),
        ("**/logs", ["logs", "a/logs", "a/b/logs/x"], ["alogs"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/xb", "b", "x/a/b"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "a/"]),
        ("cache-?", ["cache-1", "x/cache-2"], ["cache-", "cache-12"]),
        ("[ab].txt", ["a.txt", "b.txt"], ["c.txt", "ab.txt"]),
        ("[!ab].txt", ["c.txt"], ["a.txt"]),
        ("*mid*", ["amidb", "mid"], ["mi"]),
        ("\\*.log", ["*.log"], ["a.log"]),
        ("a*b/", ["ab/", "axb/y"], ["ab", "axb"]),
        ("[", ["["], ["x"]),
        ("новый*", ["новый", "d/новый1"], ["нов"]),
    ],
)
def test_one_pattern(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not matches([pattern], path)] == []
    assert [path for path in no if matches([pattern], path)] == []


def test_last_one_that_matches_decides() -> None:
    lines = ["*.log", "!keep.log", "d/keep.log"]
    assert matches(lines, "x.log")
    assert not matches(lines, "keep.log")
    assert matches(lines, "d/keep.log")


@pytest.mark.parametrize("line", ["", "/", "!", "!/", "[z-a]"])
def test_what_cannot_be_understood_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|nothing"):
        Patterns([line])


names = st.text(alphabet="ab.-*", min_size=1, max_size=4).filter(lambda n: n not in {".", ".."})
texts = st.lists(
    st.tuples(
        st.sampled_from(["", "/", "!", "**/", "a/"]),
        st.text(alphabet="ab.*?-", min_size=1, max_size=4),
        st.sampled_from(["", "/"]),
    ).map("".join),
    min_size=1,
    max_size=3,
)


@settings(max_examples=100, deadline=None)
@given(lines=texts, folder_names=st.lists(names, max_size=6))
def test_quick_answer_is_never_wrongly_no(lines: list[str], folder_names: list[str]) -> None:
    patterns = Patterns(lines)
    hit = any(patterns.match("f", name, is_folder=kind) for name in folder_names for kind in (True, False))
    joined = "\0" + "\0".join(folder_names) + "\0"
    assert patterns.maybe(joined) or not hit


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None:
        pytest.skip("NOT TESTED against git: it is not installed")
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(lines=texts, paths=st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), min_size=5, max_size=12))
def test_git_says_the_same(repository: Path, lines: list[str], paths: list[str]) -> None:
    """Files only: git check-ignore takes a final slash for a folder that is there."""
    (repository / ".gitignore").write_text("".join(line + "\n" for line in lines))
    wanted = sorted(set(paths))
    done = subprocess.run(
        ["git", "-C", str(repository), "check-ignore", "--no-index", "-z", "--stdin"],
        input="\0".join(wanted).encode(),
        capture_output=True,
        check=False,
    )
    ignored = set(filter(None, done.stdout.decode().split("\0")))
    assert {path for path in wanted if matches(lines, path)} == ignored
