"""What must be on the disk before what: the order of calls, which a test in one process cannot see fail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from store_kit import fill, packs

from rfs.production.rollback.store import Store
from rfs.production.rollback.store.index import Index


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(call, kind of path) of each call that matters, in order."""
    made: list[tuple[str, str]] = []

    def kind(path: str) -> str:
        parent, name = os.path.split(path)
        return f"{os.path.basename(parent)}/*.pack" if name.endswith(".pack") else name

    def watch(name: str, path_of: Any) -> None:
        real = getattr(os, name)

        def call(*args: Any, **named: Any) -> Any:
            made.append((name, kind(path_of(args))))
            return real(*args, **named)

        monkeypatch.setattr(os, name, call)

    for name in ("write", "fsync"):
        watch(name, lambda args: os.readlink(f"/proc/self/fd/{args[0]}"))
    watch("rename", lambda args: args[1])
    watch("unlink", lambda args: args[0])
    for name in ("add", "drop"):
        real = getattr(Index, name)

        def call(*args: Any, name: str = name, real: Any = real) -> None:
            made.append((f"index.{name}", ""))
            real(*args)

        monkeypatch.setattr(Index, name, call)
    return made


SEALED = [
    ("write", "tmp/*.pack"),
    ("fsync", "tmp/*.pack"),
    ("rename", "packs/*.pack"),
    ("fsync", "packs"),
    ("index.add", ""),
]


def test_a_pack_is_durable_before_its_name_and_its_name_before_flush_returns(
    store: Store, calls: list[tuple[str, str]]
) -> None:
    fill(store, 5)
    store.flush()
    assert calls == SEALED


def test_an_old_pack_goes_only_when_its_copies_are_durable(
    store: Store, root: str, calls: list[tuple[str, str]]
) -> None:
    made = fill(store, 10)
    store.flush()
    calls.clear()
    store.prune(set(list(made)[:3]), lambda kind, body: True, dry_run=False)
    assert calls == [*SEALED, ("index.drop", ""), ("unlink", "packs/*.pack"), ("fsync", "packs")]


def test_a_salvaged_pack_is_put_aside_only_when_its_copies_are_durable(
    store: Store, root: str, calls: list[tuple[str, str]]
) -> None:
    fill(store, 10)
    store.flush()
    (pack,) = packs(root)
    os.truncate(pack, pack.stat().st_size - 1)
    calls.clear()
    assert len(store.recover()) == 1
    assert calls[: len(SEALED) + 1] == [*SEALED, ("index.drop", "")]
    assert calls[-3:] == [("rename", "damaged/*.pack"), ("fsync", "damaged"), ("fsync", "packs")]


def test_key_and_record_are_durable_before_a_store_is_there(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    Store.create(str(tmp_path / "store"), str(tmp_path / "keys" / "key")).close()
    names = [(call, name.split(".")[0]) for call, name in calls]
    assert names == [
        ("fsync", tmp_path.name),  # the store's folder
        ("fsync", tmp_path.name),  # the folder of keys
        ("write", "key"),
        ("fsync", "key"),
        ("unlink", "key"),
        ("fsync", "keys"),
        ("fsync", "store"),  # packs
        ("fsync", "store"),  # tmp
        ("write", "repository"),
        ("fsync", "repository"),
        ("rename", "repository"),
        ("fsync", "packs"),
        ("write", "repository"),
        ("fsync", "repository"),
        ("rename", "repository"),
        ("fsync", "store"),
    ]
