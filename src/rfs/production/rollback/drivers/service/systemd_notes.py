"""What the systemd manager writes down between a stop and the start after it, and what it may show of secrets."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from rfs.production.rollback.drivers.envfile import parse_systemd
from rfs.production.rollback.drivers.formats import UnparsableError
from rfs.production.rollback.drivers.masking import MASK, is_secret_name, is_secret_value, label
from rfs.production.rollback.drivers.service import definitions as files
from rfs.production.rollback.drivers.service.manager import Places
from rfs.production.rollback.model import Component

# What systemd tells each start of a unit anew, and what a shell sets for itself.
_OF_THE_START = re.compile(
    r"INVOCATION_ID|JOURNAL_STREAM|NOTIFY_SOCKET|WATCHDOG_(PID|USEC)|LISTEN_(PID|FDS|FDNAMES)|MAINPID|MANAGERPID"
    r"|SYSTEMD_EXEC_PID|MEMORY_PRESSURE_(WATCH|WRITE)|(MONITOR|TRIGGER)_\w+|REMOTE_(ADDR|PORT)|_|PWD|OLDPWD|SHLVL"
)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SHORTEST_SECRET = 4


class _Noted(msgspec.Struct):
    along: list[str] = []
    loaded: str | None = None
    mended: list[str] = []


class Notes:
    """A file in a component's own folder.

    Attributes:
        along: units outside the component that were stopped along with it.
        loaded: what told that systemd knew the definitions on the disk when it was stopped; empty when it did not.
        mended: units that are to run again by definitions that are about to be restored.
    """

    def __init__(self, c: Component) -> None:
        self._c = c
        self._path = os.path.join(c.work, "systemd.json")

    @property
    def along(self) -> list[str]:
        return (self._read() or _Noted()).along

    @property
    def loaded(self) -> str:
        return (self._read() or _Noted()).loaded or ""

    @property
    def mended(self) -> list[str]:
        return (self._read() or _Noted()).mended

    def expect(self, mended: Iterable[str]) -> None:
        """Note which units get better definitions."""
        noted = self._read() or _Noted()
        noted.mended = sorted(mended)
        self._write(noted)

    def stopping(self, along: Iterable[str], loaded: str) -> None:
        """Note what is stopped along. In a stop that is repeated, the first one knew what had been the case."""
        noted = self._read() or _Noted()
        noted.loaded = loaded if noted.loaded is None else noted.loaded
        noted.along = sorted({*noted.along, *along})
        self._write(noted)

    def _write(self, noted: _Noted) -> None:
        os.makedirs(self._c.work, exist_ok=True)
        with open(f"{self._path}.new", "wb") as file:
            file.write(msgspec.json.encode(noted))
        os.replace(f"{self._path}.new", self._path)

    def forget(self) -> None:
        """Remove the file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def digest(self, places: Places) -> str:
        """Return what identifies the definitions as they are on the disk."""
        definitions = files.read_definitions(
            self._c, [*files.expand_links(places.files), *places.links, *places.shared]
        )
        facts = [(os.fsencode(path), each.meta, each.data) for path, each in sorted(definitions.items())]
        return sha256(msgspec.msgpack.encode(facts)).hexdigest()

    def _read(self) -> _Noted | None:
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=_Noted)
        except (OSError, msgspec.MsgspecError):
            return None  # nothing is being stopped


def environment_of(pid: int) -> bytes | None:
    """Return the variables that a process was started with, sorted, with NULs between; None when they cannot be had.

    What differs with every start is left out.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = [word for word in file.read().split(b"\0") if word]
    except OSError:
        return None  # it belongs to somebody else, or just ended
    names = [os.fsdecode(word.partition(b"=")[0]) for word in words if b"=" in word]
    if len(names) != len(words) or not all(map(_NAME.fullmatch, names)):
        return None  # a program that writes its title there
    kept = [word for name, word in zip(names, words, strict=True) if not _OF_THE_START.fullmatch(name)]
    return b"\0".join(sorted(kept))


def shown_words(text: str, environment_files: Iterable[str]) -> str:
    """Return what a program said as one short line, without what looks like a secret.

    Args:
        environment_files: of its unit; secrets in them are not shown whatever they look like.
    """
    for secret in sorted(_secrets(environment_files), key=len, reverse=True):
        text = text.replace(secret, MASK)
    words: list[str] = []
    hide = False
    for word in text.split():
        name, equals, value = word.partition("=")
        if hide or is_secret_value(word):
            words.append(MASK)
        elif equals and value and is_secret_name(name):
            words.append(f"{name}={MASK}")
        else:
            words.append(word)
        hide = word.endswith((":", "=")) and is_secret_name(word)
    return label(" ".join(words))


def _secrets(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                variables = parse_systemd(file.read())
        except (OSError, UnicodeDecodeError, UnparsableError):
            continue
        found |= {
            value
            for name, value in variables.items()
            if len(value) >= _SHORTEST_SECRET and (is_secret_name(name) or is_secret_value(value))
        }
    return found
