"""The formats of configuration files, by name, and one value in such a file.

Apart from what reads them, which takes a third of the time to start of a command that only compares files.
"""

from __future__ import annotations

FORMATS = ("toml", "yaml", "json", "ini", "dotenv", "systemd")
NAMES = {"toml": "TOML", "yaml": "YAML", "json": "JSON", "ini": "INI", "dotenv": "dotenv", "systemd": "environment"}

_SUFFIXES = {
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".ini": "ini",
    ".cfg": "ini",
    ".env": "dotenv",
}


class UnparsableError(Exception):
    """The content is not of its format; the text says where or why, and holds nothing of it."""

    def __init__(self, why: str = "", *, line: int = 0, column: int = 0) -> None:
        place = f"line {line}, column {column}" if column else f"line {line}"
        super().__init__(why or place)


class Value:
    """One key's value: a text that identifies it, and whether its name or place makes it a secret."""

    __slots__ = ("secret", "text")

    def __init__(self, text: str, *, secret: bool = False) -> None:
        self.text = text
        self.secret = secret

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and (self.text, self.secret) == (other.text, other.secret)

    __hash__ = None  # type: ignore[assignment]  # the stub of object says that everything can be hashed


def format_of(name: str) -> str | None:
    """Return the format that a file's name tells, or None."""
    lower = name.lower()
    if lower == ".env" or lower.startswith(".env."):
        return "dotenv"
    return next((kind for suffix, kind in _SUFFIXES.items() if lower.endswith(suffix)), None)
