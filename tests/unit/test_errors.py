from __future__ import annotations

import ast
import pickle
import string
from pathlib import Path

import pytest

import rfs
from rfs.production.rollback import errors, messages
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.messages import MESSAGES

SOURCE = Path(rfs.__file__).parent


def raised() -> list[tuple[Path, int, str, set[str]]]:
    """Every place that raises an error by key: (file, line, key, names of the fields given)."""
    names = {name for name in dir(errors) if name.endswith("Error")}
    found = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in names
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                starred = any(keyword.arg is None for keyword in node.keywords)
                found.append((file, node.lineno, node.args[0].value, fields | ({"*"} if starred else set())))
    return found


def fields_of(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_error_raised_has_a_text_and_gives_all_its_fields() -> None:
    places = raised()
    assert len(places) > 20
    for file, line, key, fields in places:
        assert key in MESSAGES, f"{file}:{line} raises {key}, which has no text"
        if "*" not in fields:
            needed = fields_of(MESSAGES[key][0]) | fields_of(MESSAGES[key][1])
            assert needed <= fields, f"{file}:{line} {key} lacks {needed - fields}"


def test_texts_are_sentences() -> None:
    for key, (text, hint) in MESSAGES.items():
        assert text[-1] in ".:?}", key
        assert not hint or hint[-1] in ".}`", key
        assert text[0].isupper() or text[0] == "{", key


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = NotFoundError("checkpoint.none", selector="@latest")
    assert str(error) == "No checkpoint matches @latest."
    assert "rfs checkpoint list" in error.hint
    assert error.code == 10


def test_a_field_left_out_never_hides_the_error() -> None:
    assert "{selector}" in str(NotFoundError("checkpoint.none"))


def test_a_plug_in_brings_its_own_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MESSAGES", messages.MESSAGES.copy())
    texts = {"lamp.broken": ("The lamp {lamp} is broken.", "Replace it.")}
    messages.define_messages("lamp", texts)
    messages.define_messages("lamp", texts)  # a module may be imported again
    assert str(RollbackError("lamp.broken", lamp="green")) == "The lamp green is broken."
    with pytest.raises(ValueError, match="another text"):
        messages.define_messages("lamp", {"lamp.broken": ("It broke.", "")})
    with pytest.raises(ValueError, match="does not begin"):
        messages.define_messages("lamp", {"store.none": ("There is no lamp.", "")})


@pytest.mark.parametrize("kind", [k for k in vars(errors).values() if isinstance(k, type)])
def test_errors_cross_process_borders(kind: type[RollbackError]) -> None:
    if not issubclass(kind, RollbackError):
        return
    error = pickle.loads(pickle.dumps(kind("checkpoint.none", selector="x")))
    assert (type(error), str(error), error.fields) == (kind, "No checkpoint matches x.", {"selector": "x"})
