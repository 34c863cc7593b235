"""What a restore of files refuses before it changes anything."""

from __future__ import annotations

import os

from rfs.production.rollback.drivers.files import places
from rfs.production.rollback.drivers.files.compare import Task, Verb
from rfs.production.rollback.drivers.files.places import Place
from rfs.production.rollback.drivers.files.tree import Tree
from rfs.production.rollback.drivers.meta import check_owner, shown
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component


def refuse_mounts(c: Component, place: Place, tasks: list[Task]) -> None:
    """Refuse what would carry a mounted file system away: its content would go with the folder."""
    mounts = [os.path.relpath(path, place.real) for path in places.mounts_under(place.real)] if place.real else []
    if not mounts:
        return
    for task in tasks:
        if task.live is None or not task.live.is_folder or task.verb is Verb.DESCRIBE:
            continue
        for mount in mounts:
            if mount == task.path or mount.startswith(task.path + "/"):
                raise RollbackError("path.mounted", path=shown(mount), component=c.name)


def refuse_owners(tasks: list[Task], live: Tree) -> None:
    """Without root, refuse before anything is changed what only another user may do."""
    user = os.geteuid()
    folders = live.find_all({task.path.rpartition("/")[0] for task in tasks if task.verb is not Verb.DESCRIBE})
    for path, entry in folders.items():
        if entry.uid != user:
            raise RollbackError("path.owner", path=shown(path) or ".")
    for task in tasks:
        if task.want is not None:
            check_owner(task.path, task.want.meta)
        if task.verb in (Verb.DESCRIBE, Verb.WRITE) and task.live is not None and task.live.uid != user:
            raise RollbackError("path.owner", path=shown(task.path) or ".")
