"""Which files define a unit, as they lie on the disk: names, aliases, masks, drop-ins, environment files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rfs.production.rollback.drivers.service import definitions
from rfs.production.rollback.drivers.service.manager import Places
from rfs.production.rollback.drivers.service.systemd_files import UnitFiles, full_name, template_of
from rfs.testing import component

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def one(path: str, text: str = "", link: str | None = None) -> str:
        whole = tmp_path / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        if link is None:
            whole.write_text(text, encoding="utf-8")
        else:
            whole.symlink_to(link)
        return str(whole)

    return one


@pytest.fixture
def disk(tmp_path: Path) -> Callable[[], UnitFiles]:
    (tmp_path / "lib").symlink_to("usr")
    folders = [str(tmp_path / name) for name in ("etc", "run", "run/generator", "lib", "usr")]
    return lambda: UnitFiles(folders, user=False)


def test_names() -> None:
    assert [full_name(name) for name in ("web", "web.socket", "a@b.c", "web.old")] == [
        "web.service", "web.socket", "a@b.c.service", "web.old.service",
    ]  # fmt: skip
    assert template_of("a@1.service") == "a@.service"
    assert template_of("a@.service") is None
    assert template_of("a.service") is None


def test_every_folder_counts_once_and_none_that_systemd_writes(write: Write, disk: Callable[[], UnitFiles]) -> None:
    files = {write("etc/web.service"), write("usr/web.service").replace("/usr/", "/lib/")}
    write("run/generator/web.service")
    files.add(write("etc/web.service.d/a.conf"))
    write("etc/web.service.d/a.txt")
    wants = write("etc/x.target.wants/web.service", link="../web.service")
    write("etc/x.target.wants/other.service", link="../other.service")
    places = disk().places(["web.service"])
    assert {*places.files} == files
    assert (places.links, places.shared) == ((wants,), ())


def test_masks_and_aliases_matter_for_themselves_and_a_link_that_leads_out_is_followed(
    write: Write, disk: Callable[[], UnitFiles], tmp_path: Path
) -> None:
    mask = write("etc/masked.service", link="/dev/null")
    unit = write("usr/web.service").replace("/usr/", "/lib/")
    alias = write("etc/www.service", link=str(tmp_path / "usr/web.service"))
    extra = write("etc/www.service.d/a.conf")
    out = write("etc/out.service", link=write("away/out.service"))
    assert disk().places(["masked.service"]).links == (mask,)
    for name in ("web.service", "www.service"):
        places = disk().places([name])
        assert ({*places.files}, places.links) == ({unit, extra}, (alias,))
    assert disk().places(["out.service"]).files == (out,)
    assert definitions.expand_links([out]) == [str(tmp_path / "away/out.service"), out]


def test_what_units_may_share_is_told_apart(write: Write, disk: Callable[[], UnitFiles]) -> None:
    own = write("etc/a-b@1.service.d/x.conf")
    shared = {write("etc/a-b@.service"), write("etc/a-b@.service.d/x.conf"), write("etc/a-.service.d/x.conf")}
    write("etc/service.d/x.conf")
    write("etc/a-b.service.d/x.conf")
    places = disk().places(["a-b@1.service"])
    assert ({*places.files}, {*places.shared}) == ({own}, shared)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("EnvironmentFile=/e/a\nEnvironmentFile=-/e/b", ["/e/a", "/e/b"]),
        ("EnvironmentFile=/e/a\nEnvironmentFile=\nEnvironmentFile=/e/b", ["/e/b"]),
        ("EnvironmentFile = \\\n# a comment\n; another\n  /e/a\n", ["/e/a"]),
        ("#EnvironmentFile=/e/a\n;EnvironmentFile=/e/b\nEnvironmentFile=relative", []),
        ("EnvironmentFile=/e/%p-%i/%N%%", ["/e/web-1-x/web@1-x%"]),
        ("EnvironmentFile=/e/%I/%n", ["/e/1/x/web@1-x.service"]),
        ("EnvironmentFile=%E/x\nEnvironmentFile=%t/x", ["/etc/x", "/run/x"]),
        ("EnvironmentFile=/e/%m\nEnvironmentFile=/e/../b", ["/b"]),
        ("EnvironmentFile=TMP/*.env", ["TMP/1.env", "TMP/2.env"]),
    ],
)
def test_environment_files(
    write: Write, disk: Callable[[], UnitFiles], tmp_path: Path, text: str, found: list[str]
) -> None:
    for name in ("1.env", "2.env", "3.txt"):
        write(name)
    write("etc/web@.service", "[Service]\n" + text.replace("TMP", str(tmp_path)))
    assert disk().environment_files("web@1-x.service") == [path.replace("TMP", str(tmp_path)) for path in found]


def test_drop_ins_count_by_name_and_the_more_special_one_wins(write: Write, disk: Callable[[], UnitFiles]) -> None:
    write("etc/a-b.service", "EnvironmentFile=/1")
    write("etc/a-b.service.d/20.conf", "EnvironmentFile=/20")
    write("usr/a-b.service.d/20.conf", "EnvironmentFile=/not")
    write("etc/a-.service.d/10.conf", "EnvironmentFile=\nEnvironmentFile=/10")
    write("etc/a-.service.d/20.conf", "EnvironmentFile=/not")
    write("etc/a-b.service.d/30.conf", link="/dev/null")
    write("usr/a-b.service.d/30.conf", "EnvironmentFile=/not")
    assert disk().environment_files("a-b.service") == ["/10", "/20"]


def test_what_starts_a_unit(write: Write, disk: Callable[[], UnitFiles]) -> None:
    for name, text in {
        "web.socket": "",
        "web.timer": "Unit=%p-job.service",
        "web@.path": "",
        "odd.timer": "Unit=web.service",
    }.items():
        write(f"etc/{name}", text)
    assert disk().beside(["web.service", "web@1.service"]) == ["odd.timer", "web.socket", "web@1.path"]
    assert disk().beside(["web.service", "odd.timer"]) == ["web.socket"]
    assert disk().started_by("web.timer") == {"web-job.service"}
    assert disk().started_by("odd.timer") == {"web.service"}
    assert disk().started_by("none.timer") == set()


def test_patterns(write: Write, disk: Callable[[], UnitFiles]) -> None:
    for name in (
        "web@.service",
        "web@1.service",
        "x.target.wants/web@2.service",
        "web.service",
        "web@1.service.d/x.conf",
    ):
        write(f"etc/{name}")
    assert disk().matching(["web@*.service"]) == ["web@.service", "web@1.service", "web@2.service"]
    template = os.path.join(os.path.dirname(write("etc/x")), "web@.service")
    assert disk().places(["web@.service"]).shared == (template,)


# — which come first, and whose they are —


def test_what_is_shared_and_owned_by_another_is_left_alone(write: Write, tmp_path: Path) -> None:
    unit, env, mine = write("etc/web.service"), write("app/web.env"), write("default/web")
    places = Places(files=(unit,), shared=(env, mine))
    c = component("service", tmp_path, carved=[str(tmp_path / "app"), unit])
    assert definitions.present(c, places) == sorted([unit, mine])
    read = definitions.read_definitions(c, [unit, env, mine, str(tmp_path), "/dev/null", str(tmp_path / "no")])
    assert sorted(read) == sorted([unit, env, mine])
    assert sorted(definitions.without_others(c, read, places)) == sorted([unit, mine])


def test_wanted_files_come_first_then_links_then_files_then_what_is_shared(write: Write, tmp_path: Path) -> None:
    names = ("wanted", "link", "file", "shared", "led-to")
    paths = {name: write(f"etc/{name}", name) for name in names}
    hidden = write("hidden/env", "new")
    c = component("service", tmp_path)
    live = definitions.read_definitions(c, paths.values())
    wanted = definitions.read_definitions(c, [paths["wanted"], hidden])
    live[paths["wanted"]] = live["/".join(paths["wanted"].split("/"))]
    wanted[paths["wanted"]] = live[paths["file"]]
    places = Places((paths["file"],), (paths["link"],), (paths["shared"],), (str(tmp_path / "etc"),))
    order = []
    while found := definitions.next_to_change(wanted, live, places):
        order.append([os.path.basename(path) for path in found])
        for path in found:
            if path in wanted:
                live[path] = wanted[path]
            else:
                del live[path]
    assert order == [["wanted"], ["env"], ["link"], ["file"], ["shared"]]
    assert paths["led-to"] in live


def test_what_a_restore_made_is_known_until_the_operation_is_over(write: Write, tmp_path: Path) -> None:
    c = component("service", tmp_path)
    there, odd, edited = write("there"), write("not\udcff"), write("edited")
    new = definitions.read_definitions(c, [there, odd, edited])
    for path in (odd, edited):
        os.unlink(path)
    definitions.Made(c).note({path: new[path] for path in (there, odd)})
    definitions.Made(c).note({edited: new[edited]})
    write("not\udcff")
    write("edited", "by somebody else since")
    assert definitions.Made(c).left({}) == [odd]
    assert definitions.Made(c).left(new) == []
    definitions.Made(c).forget()
    definitions.Made(c).forget()
    assert definitions.Made(c).left({}) == []
