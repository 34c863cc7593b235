"""What the command line loads to start. How long that takes is measured by `python -m benchmarks.startup`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_app import App

from rfs.cli.common import COMMON
from rfs.cli.session import COMMON_FLAGS
from rfs.cli.status import FLAGS, is_plain


@pytest.fixture
def settled(notes_app: App) -> App:
    notes_app.checkpoint()
    return notes_app


def loaded(*words: str) -> set[str]:
    """Return the modules that a command loads."""
    code = "import sys; from rfs.cli.main import main; main(sys.argv[1:]); print('|', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("|")[2].split())


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "rfs"}


def test_what_is_loaded_is_what_is_needed(settled: App) -> None:
    version = loaded("--version")
    assert not {"click", "msgspec", "apsw"} & version
    assert len(ours(version)) <= 6
    heavy = {"rich", "zstandard", "cryptography", "asyncio", "tomlkit", "ruamel.yaml", "http.client", "xmlrpc.client"}
    status = loaded("status")
    assert not (heavy | {"click", "importlib.metadata", "typing_extensions", "dataclasses"}) & status
    # Whoever adds one asks first whether a state can be compared without it.
    assert len(ours(status)) <= 85, sorted(ours(status))
    assert not heavy & loaded("log")
    assert not (heavy | {"apsw"}) & loaded("--help")


def test_the_short_way_to_status_answers_as_the_long_one(settled: App) -> None:
    for flags in ([], ["-q"], ["-v"], ["--json"], ["--no-color"], ["--exit-code"], ["-q", "-v"]):
        assert is_plain(["status", *flags])
        assert settled.rfs("status", *flags) == settled.rfs("status", *flags, "--timeout", "1m"), flags
    assert not is_plain(["status", "--help"])
    assert not is_plain(["log"])


def test_the_short_way_knows_flags_that_the_long_one_has() -> None:
    options = {option.name: option for option in COMMON}
    assert tuple(options) == COMMON_FLAGS
    for word, name in FLAGS.items():
        if name != "exit_code":
            assert word in options[name].opts
