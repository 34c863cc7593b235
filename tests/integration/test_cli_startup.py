"""How long the command line takes to start, against a bare interpreter: goals of the project, kept here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_app import App

from rfs.cli.common import COMMON
from rfs.cli.session import COMMON_FLAGS
from rfs.cli.status import FLAGS, is_plain

ROUNDS, MOST_ROUNDS = 12, 40
RFS = str(Path(sys.executable).parent / "rfs")


@pytest.fixture
def settled(notes_app: App, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> App:
    """With a checkpoint, and with compiled modules as an installed package has them."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("pycache")))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    notes_app.checkpoint()
    return notes_app


def processor_seconds(*command: str) -> float:
    """Return user and system time: what the machine does beside it matters less than for elapsed time."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    error = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    assert child.returncode == 0, error
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(("words", "limit"), [(("--version",), 4.5), (("status",), 9.0)])
def test_start_up_against_a_bare_interpreter(settled: App, words: tuple[str, ...], limit: float) -> None:
    bare, ours = (sys.executable, "-c", "pass"), (RFS, *words)
    processor_seconds(*ours)  # compiles
    fastest = [processor_seconds(*bare), processor_seconds(*ours)]
    ratio = limit + 1
    # Processes beside it take caches away, and so time, but they never give any: what was fast once can be as fast.
    for number in range(MOST_ROUNDS):
        taken = processor_seconds(*bare), processor_seconds(*ours)
        fastest = [min(each) for each in zip(fastest, taken, strict=True)]
        ratio = fastest[1] / fastest[0]
        if number >= ROUNDS and ratio <= limit:
            break
    assert ratio <= limit, f"rfs {' '.join(words)} takes {ratio:.1f} times `python -c pass`"


def loaded(*words: str) -> set[str]:
    """Return the modules that a command loads."""
    code = "import sys; from rfs.cli.main import main; main(sys.argv[1:]); print('|', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("|")[2].split())


def test_what_is_loaded_is_what_is_needed(settled: App) -> None:
    assert not {"click", "msgspec", "apsw"} & loaded("--version")
    heavy = {"rich", "zstandard", "cryptography", "asyncio", "tomlkit", "ruamel.yaml", "http.client", "xmlrpc.client"}
    assert not (heavy | {"click", "importlib.metadata"}) & loaded("status")
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
