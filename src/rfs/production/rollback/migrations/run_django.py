"""Run by the application's Python, not by ours: what only Django can do. It imports nothing of rfs."""

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
    sys.path.insert(0, os.getcwd())
    if asked["settings"]:
        os.environ["DJANGO_SETTINGS_MODULE"] = asked["settings"]
    import django
    from django.conf import settings

    if asked["captured"]:
        sys.path.insert(0, asked["captured"])
        settings.MIGRATION_MODULES = {**settings.MIGRATION_MODULES, **asked["modules"]}
    django.setup()
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    targets = []
    for each in asked["targets"]:
        app, _, name = each.partition(".")
        if app not in executor.loader.migrated_apps:
            return {"unknown": each}
        try:
            exact = None if name == "zero" else executor.loader.get_migration_by_prefix(app, name).name
        except (KeyError, ValueError):
            return {"unknown": each}
        targets.append((app, exact))
    plan = executor.migration_plan(targets)
    if any(not backwards for _, backwards in plan):
        return {"forward": [f"{m.app_label}.{m.name}" for m, backwards in plan if not backwards]}
    answer: dict[str, Any] = {
        "way": [f"{m.app_label}.{m.name}" for m, _ in plan],
        "targets": [f"{app}.{name or 'zero'}" for app, name in targets],
        "stuck": [f"{m.app_label}.{m.name}" for m, _ in plan if not all(each.reversible for each in m.operations)],
        "applied": sorted(f"{app}.{name}" for app, name in executor.loader.applied_migrations),
    }
    if asked["act"] == "sql":
        answer["sql"] = "\n".join(executor.loader.collect_sql(plan))
    elif asked["act"] == "down":
        for app, name in targets:
            call_command("migrate", app, name or "zero", interactive=False, verbosity=0, skip_checks=True)
    return answer


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    answer = main(request)
    with open(request["out"], "w") as file:
        json.dump(answer, file)
