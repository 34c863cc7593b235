"""What may be shown of a key and its value. When in doubt, a value is a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "••••"
SHOWN = 100

_WORDS = re.compile(
    "auth|authorization|bearer|cert|certificate|cookie|credential|credentials|creds|dsn|jwt|key|keys|otp"
    "|pass|passwd|passphrase|password|passwords|pat|pem|pin|private|pwd|salt|secret|secrets|session|signature|token|tokens",
    re.IGNORECASE,
)
# Written as one word they are no word of their own: "dbpassword", "APIKEY".
_INSIDE = ("password", "passwd", "passphrase", "secret", "token", "credential", "apikey", "accesskey", "privatekey")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER_INFO = re.compile(r"://[^/?#\s]*@")
_KNOWN = re.compile(
    r"-----BEGIN |\beyJ[\w-]{10,}\.|\b(?:gh[pousr]|xox[a-z]|sk|pk|rk)[_-]\w{10,}|\bAKIA[A-Z0-9]{12}|\bBearer "
)
_QUERY = re.compile(r"[?&;]([\w.-]+)=")
_ASSIGNED = re.compile(r"([\w.-]+)[\"']?\s*(?::|=>?)\s*\S")
_OPAQUE = re.compile(r"[A-Za-z0-9+/=_-]{20,}")


def is_secret_name(name: str) -> bool:
    """Tell whether something of this name is likely to be a secret."""
    lower = name.lower()
    return any(part in lower for part in _INSIDE) or any(map(_WORDS.fullmatch, _WORD.findall(name)))


def is_secret_value(value: str) -> bool:
    """Tell whether a text looks like a secret, whatever it is called: credentials in a URL, a key, a token."""
    if _USER_INFO.search(value) or _KNOWN.search(value):
        return True
    if any(is_secret_name(name) for name in _QUERY.findall(value)):
        return True
    return any(_is_opaque(part) for part in _OPAQUE.findall(value))


def _is_opaque(text: str) -> bool:
    # Random text has all three; words, paths, versions and dates do not.
    return all(re.search(kind, text) for kind in ("[a-z]", "[A-Z]", "[0-9]"))


def masked(value: Any, *, secret: bool = False) -> Any:
    """Return a JSON-like value with every text that is or may be a secret replaced by MASK.

    Args:
        secret: what it belongs to is called like one, so that nothing of it is shown.
    """
    if isinstance(value, Mapping):
        return {
            MASK if is_secret_value(str(key)) else str(key): masked(each, secret=secret or is_secret_name(str(key)))
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(each, secret=secret) for each in value]
    if value is None or isinstance(value, bool):
        return value
    return MASK if secret or is_secret_value(str(value)) else value


def masked_line(line: str) -> str:
    """Return a line of any text, of which nothing is left but its indentation when it may hold a secret."""
    if is_secret_value(line) or any(is_secret_name(name) for name in _ASSIGNED.findall(line)):
        return line[: len(line) - len(line.lstrip())] + MASK
    return line


def label(value: str) -> str:
    """Return a value that is no secret as one short line."""
    line = " ".join(value.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
