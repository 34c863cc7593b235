"""docs/writing-a-driver.md shows the code of the examples, and names everything that is public, and nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import rfs.plugin
import rfs.testing

ROOT = Path(__file__).parents[2]
PAGES = ("docs/writing-a-driver.md", "docs/writing-a-driver.ko.md")
PAGE = (ROOT / PAGES[0]).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_the_code_on_the_page_is_the_code_of_the_examples(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = re.findall(r"^<!-- (\S+) -->\n```\w+\n(.*?)^```$", text, re.M | re.S)
    assert len(shown) >= 4
    assert len(shown) == len(re.findall(r"^```(?:python|toml)$", text, re.M)), "a block does not say whose code it is"
    for path, code in shown:
        source = (ROOT / path).read_text(encoding="utf-8")
        for piece in re.split(r"^ *…\n", code, flags=re.M):
            assert piece.rstrip("\n") + "\n" in source, f"{page} shows what {path} does not have:\n{piece}"


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (ROOT / "docs" / target).exists(), f"{page}: {target}"


def test_the_public_names_are_those_of_the_page() -> None:
    _, _, section = PAGE.partition("## 12. ")
    table, _, testing = section.partition("And in `rfs.testing`")
    for module, text in ((rfs.plugin, table), (rfs.testing, testing)):
        named = set(re.findall(r"`(\w+)`", text)) - {"30s"}
        assert named == set(module.__all__), module.__name__
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_every_public_name_is_explained() -> None:
    for name in set(rfs.plugin.__all__) - {"MASK", "Duration"}:
        assert getattr(rfs.plugin, name).__doc__, name


@pytest.mark.parametrize("path", ["src", "tests"])
@pytest.mark.parametrize("name", ["rfs-document", "rfs-redis"])
def test_an_example_imports_nothing_of_rfs_that_is_not_public(name: str, path: str) -> None:
    files = list((ROOT / "examples" / name / path).rglob("*.py"))
    assert files
    for file in files:
        imported = set(re.findall(r"^\s*(?:from|import) (rfs(?:\.\S+)?)(?=\s)", file.read_text(encoding="utf-8"), re.M))
        assert imported <= {"rfs.plugin", "rfs.testing"}, file


@pytest.mark.parametrize("name", ["rfs-document", "rfs-redis"])
def test_an_example_asks_for_what_it_imports(name: str) -> None:
    folder = ROOT / "examples" / name
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {re.split(r"[<>=]", each)[0] for each in project["dependencies"]}
    code = "".join(file.read_text(encoding="utf-8") for file in folder.glob("src/**/*.py"))
    assert asked == {"msgspec", "rfs-rollback"}
    assert "import msgspec" in code
