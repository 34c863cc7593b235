"""DocumentDriver: the conformance suite, and what the suite cannot know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flags import Flags, serving
from rfs.plugin import Component, Driver, IntegrityError, RollbackError
from rfs.testing import DriverSuite, MemoryStore, component, load_capture
from rfs_document import DocumentDriver

HERE = Path(__file__).parent


@pytest.fixture
def flags() -> Iterator[Flags]:
    with serving() as server:
        yield server


class TestDocumentDriver(DriverSuite):
    ways = 3
    secrets = ("hunter2", "correct horse")

    @pytest.fixture(autouse=True)
    def serve(self, flags: Flags) -> None:
        self.flags = flags

    def make_driver(self) -> Driver:
        return DocumentDriver()

    def make_component(self, tmp: Path) -> Component:
        return component("document", tmp, url=self.flags.url)

    def change(self, c: Component, n: int) -> None:
        document = json.loads(self.flags.text)
        count = document.get("count", 0) + 1
        if n == 0:
            document = {**document, "count": count, "new": [], "checkout": {"token": "correct horse"}}
        elif n == 1:
            document = {"only/this": "한글 \ud800", "count": count}
        else:
            document = {**document, "count": count, "limits": {"a/b": 1, "a": {"b": 1}}}
        self.flags.text = json.dumps(document).encode()

    def read(self, c: Component) -> object:
        return json.loads(self.flags.text)


def test_it_reads_what_version_1_captured(flags: Flags, tmp_path: Path) -> None:
    store, want = load_capture(HERE / "captured-1.json")
    DocumentDriver().restore(component("document", tmp_path, url=flags.url), store, want)
    assert json.loads(flags.text) == {"checkout": {"express": True}, "limits": [1, 2]}


def test_it_refuses_what_a_newer_version_captured(flags: Flags, tmp_path: Path) -> None:
    store, want = load_capture(HERE / "captured-1.json")
    want.meta["format"] = 2
    before = flags.text
    with pytest.raises(IntegrityError, match="has format 2"):
        DocumentDriver().restore(component("document", tmp_path, url=flags.url), store, want)
    assert flags.text == before


def test_a_server_that_is_down_or_refuses_is_one_sentence(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = DocumentDriver()
    (finding,) = driver.examine(component("document", tmp_path, url="http://127.0.0.1:9/flags"))
    assert finding.level == "error"
    assert "Connection refused" in finding.text
    flags.token = "right"
    c = component("document", tmp_path, url=flags.url, token="env:FLAGS_TOKEN")
    monkeypatch.setenv("FLAGS_TOKEN", "wrong, and never shown")
    with pytest.raises(RollbackError, match="401") as caught:
        driver.capture(c, MemoryStore(), None)
    assert "never shown" not in str(caught.value)
    monkeypatch.setenv("FLAGS_TOKEN", "right")
    assert not list(driver.examine(c))
    flags.text = b"<html>"
    with pytest.raises(RollbackError, match="is not JSON"):
        driver.fingerprint(c, rehash=True)
