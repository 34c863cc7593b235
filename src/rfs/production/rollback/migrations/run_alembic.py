"""Run by the application's Python, not by ours: what only Alembic can do. It imports nothing of rfs."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any


def main(asked: dict[str, Any]) -> Any:
    # Who started this may be killed; then nobody waits for it, and recovery must not meet it at work.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != asked["parent"]:
        sys.exit(1)
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config(asked["ini"])
    for name, value in asked["options"].items():
        config.set_main_option(name, value.replace("%", "%%"))
    if asked["act"] == "look":
        heads: list[str] = []

        def see(revision: Any, context: Any) -> list[Any]:
            heads.extend(context.get_current_heads())
            return []

        script = ScriptDirectory.from_config(config)
        with EnvironmentContext(config, script, fn=see, dont_mutate=True):
            script.run_env()
        return {"heads": sorted(heads)}
    if asked["act"] == "sql":
        with open(asked["out"] + ".sql", "w+") as written:
            config.output_buffer = written
            for target in asked["targets"]:
                command.downgrade(config, f"{asked['head']}:{target}", sql=True)
            written.seek(0)
            return {"sql": written.read()}
    for target in asked["targets"]:
        command.downgrade(config, target)
    return {}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    answer = main(request)
    with open(request["out"], "w") as file:
        json.dump(answer, file)
