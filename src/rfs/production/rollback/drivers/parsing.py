"""Configuration in any of the usual formats, read: as it is, or as one flat table of dotted keys for display.

What an error says is a place in the file, never a word of it: the parsers' own texts quote
lines, and lines hold secrets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from rfs.production.rollback import keypath
from rfs.production.rollback.drivers.envfile import parse_dotenv, parse_systemd
from rfs.production.rollback.drivers.formats import UnparsableError, Value
from rfs.production.rollback.drivers.masking import MASK, is_secret_name, is_secret_value

# Beyond these a file is shown as one change: a small YAML file can unfold without end.
DEEPEST = 50
MOST_KEYS = 20_000

_PLACE = re.compile(r"line (\d+), column (\d+)")


def parse(data: bytes, kind: str) -> dict[str, Value]:
    """Return every key of a configuration file with its value.

    Args:
        kind: one of FORMATS.

    Returns:
        Dotted keys ("server.port", "hosts[0].name") in the order of the file.

    Raises:
        UnparsableError: it is not of that format, or too deep or large to be listed.
    """
    return flat(tree(data, kind))


def flat(values: object) -> dict[str, Value]:
    """Return every key of what `tree` returned, as `parse` does; raises as it does."""
    try:
        return dict(_Flat().leaves("", values, 0, secret=False))
    except RecursionError:
        raise UnparsableError("it is nested too deeply") from None


def tree(data: bytes, kind: str) -> Any:
    """Return what a configuration file holds, as its format's parser gives it.

    Args:
        kind: one of FORMATS.

    Raises:
        UnparsableError: it is not of that format.
    """
    try:
        return _PARSERS[kind](data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UnparsableError("it is not UTF-8") from None
    except RecursionError:
        raise UnparsableError("it is nested too deeply") from None


class _Flat:
    """Walks a tree, and gives up on one that is too large: also below secrets, which are one value each."""

    def __init__(self) -> None:
        self._count = 0

    def leaves(self, path: str, value: object, depth: int, *, secret: bool) -> Iterator[tuple[str, Value]]:
        self._count += 1
        if self._count > MOST_KEYS:
            raise UnparsableError("it has too many keys to list")
        if depth > DEEPEST:
            raise UnparsableError("it is nested too deeply")
        if not isinstance(value, dict | list) or not value:
            yield path, Value(_text(value), secret=secret)
        elif secret:
            # The keys may be secrets as well.
            below = [(key, inner.text) for key, inner in self.leaves("", value, depth, secret=False)]
            yield path, Value(repr(below), secret=True)
        elif isinstance(value, dict):
            for key, inner in value.items():
                name = str(key)
                yield from self.leaves(_joined(path, name), inner, depth + 1, secret=is_secret_name(name))
        else:
            for position, inner in enumerate(value):
                yield from self.leaves(f"{path}[{position}]", inner, depth + 1, secret=False)


def _joined(path: str, name: str) -> str:
    if is_secret_value(name):
        name = MASK
    shown = keypath.join([name])
    return f"{path}.{shown}" if path else shown


def _text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _toml(text: str) -> object:
    import tomllib  # each parser only when a file of its format is compared: start-up is a goal

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        if place is None:
            raise UnparsableError("it ends too early") from None
        raise UnparsableError(line=int(place[1]), column=int(place[2])) from None


def _json(text: str) -> object:
    import json

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UnparsableError(line=error.lineno, column=error.colno) from None
    except ValueError:  # an integer of too many digits
        raise UnparsableError("a number is too long") from None


def _yaml(text: str) -> object:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    loader = YAML(typ="safe", pure=True)
    # The warning would print lines of the file.
    loader.composer.warn_double_anchors = False
    try:
        documents = list(loader.load_all(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is None:
            raise UnparsableError("it ends too early") from None
        raise UnparsableError(line=mark.line + 1, column=mark.column + 1) from None
    except (YAMLError, ValueError, TypeError):  # a date that is none, a key that cannot be one
        raise UnparsableError("a value is not what it says it is") from None
    return documents[0] if len(documents) == 1 else documents


def _ini(text: str) -> object:
    import configparser

    # Nothing is filled in: what stands there is what is compared.
    parser = configparser.RawConfigParser(strict=False, default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says to
    try:
        parser.read_string(text)
    except configparser.MissingSectionHeaderError as error:
        raise UnparsableError(line=error.lineno or 0) from None
    except configparser.ParsingError as error:
        raise UnparsableError(line=error.errors[0][0]) from None
    except configparser.Error:
        raise UnparsableError("its sections do not fit together") from None
    return {name: dict(parser.items(name)) for name in parser.sections()}


_PARSERS: dict[str, Callable[[str], Any]] = {
    "toml": _toml,
    "yaml": _yaml,
    "json": _json,
    "ini": _ini,
    "dotenv": parse_dotenv,
    "systemd": parse_systemd,
}
