"""Two deployments under load that nobody looks at: one turns bad and goes by itself, the other stays."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rfs.demo.shop import source

if TYPE_CHECKING:
    from rfs.demo.story import Demo

CONDITION = """
[[conditions]]
name = "error_rate"
log = "log/web.log"
pattern = '" 500 '
lines = '" [1-5][0-9][0-9] '
trip = "> 0.03"
min_samples = 50
for = "500ms"
interval = "250ms"
"""


def tell(demo: Demo) -> None:
    """Raises ClaimError when a claim does not hold."""
    teller, shop = demo.teller, demo.shop
    teller.chapter("A release that fails one request in fifteen, which no health check sees; visitors do")
    path = shop.folder / "rfs.toml"
    with path.open("a", encoding="utf-8") as file:
        file.write(CONDITION)
    teller.say("One condition more in rfs.toml: of the lines in log/web.log, no more than 3 % may be a 500.")
    teller.output(CONDITION.strip())
    with shop.visited():
        _deploy(demo, "1.5.0", "fails", "60s", 20)
        demo.claim_health("1.4.2")
        refused = demo.ends("guard", "--version", "1.5.0", "--", "true")
        teller.claim(
            "nobody had to look: it is back, and 1.5.0 is refused from now on (exit code 21)",
            [] if refused == 21 else [f"a second deployment of it ends with {refused}"],
        )
        teller.chapter("The next release is a good one, and stays")
        _deploy(demo, "1.6.0", "good", "3s", 0)
        demo.claim_health("1.6.0")


def _deploy(demo: Demo, version: str, kind: str, bake: str, code: int) -> None:
    words = ["guard", "--version", version, "--bake", bake, "--"]
    script = [sys.executable, "-B", str(source() / "deploy_version.py"), str(demo.shop.folder), kind]
    demo.rfs(*words, *script, codes=(code,), shown=[*words, "python", "deploy_version.py", "shop", kind])
