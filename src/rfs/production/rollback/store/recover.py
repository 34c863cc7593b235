"""After a crash: what was not sealed goes, and the index learns what the packs hold."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial

from rfs.production.rollback.store.files import PRIVATE_FOLDER, sync_folder, writing
from rfs.production.rollback.store.index import Index, IndexDamagedError
from rfs.production.rollback.store.packs import SUFFIX, Place, in_frames
from rfs.production.rollback.store.seal import DamagedError
from rfs.production.rollback.store.shelf import Shelf


def recover(shelf: Shelf) -> list[str]:
    """Put the store in order; the caller holds the application's lock.

    Returns:
        A sentence for each thing that was done; none when all was in order.

    Raises:
        RollbackError: store.no_space, store.unwritable or store.format.
    """
    done = _clear(shelf)
    # Another process may have changed the store since this one looked.
    shelf.forget_cached()
    try:
        found = shelf.compare()
    except IndexDamagedError:
        shelf.rebuild()
        done.append("The index of the store was damaged; it was made again from the packs.")
        found = shelf.compare()
    if found.added:
        done.append(f"{_packs(len(found.added))} missing from the index and added to it.")
    done.extend(f"Pack {name} is gone from the store, and what it held with it." for name in found.gone)
    for name, why in found.unreadable.items():
        _put_aside(shelf.place, name)
        done.append(f"Pack {name} is damaged ({why}); it lies in {shelf.place.damaged} now.")
    done.extend(_salvage(shelf, name) for name in found.resized)
    return done


def _packs(count: int) -> str:
    return "One pack was" if count == 1 else f"{count} packs were"


def _clear(shelf: Shelf) -> list[str]:
    """Remove packs that were never sealed: nobody was told that they are stored."""
    tmp, own = shelf.place.tmp, {name + SUFFIX for name in shelf.growing}
    count = size = 0
    with writing(tmp):
        # A store brought back from a copy of its packs has no such folder.
        if not os.path.isdir(tmp):
            os.mkdir(tmp, PRIVATE_FOLDER)
        with os.scandir(tmp) as entries:
            for entry in entries:
                if entry.name in own:
                    continue
                with suppress(FileNotFoundError):
                    size += entry.stat(follow_symlinks=False).st_size
                    os.unlink(entry.path)
                    count += 1
    if not count:
        return []
    return [f"{_packs(count)} left unfinished by an interrupted run and removed ({size} bytes)."]


def _put_aside(place: Place, name: str) -> None:
    with writing(place.damaged):
        if not os.path.isdir(place.damaged):
            os.mkdir(place.damaged, PRIVATE_FOLDER)
            sync_folder(place.root)
        with suppress(FileNotFoundError):
            os.rename(place.pack(name), os.path.join(place.damaged, name + SUFFIX))
        sync_folder(place.damaged)
        sync_folder(place.packs)


def _salvage(shelf: Shelf, name: str) -> str:
    """Bring what is whole in a damaged pack into a new one, and put the pack aside."""
    copies = shelf.ask(lambda index: index.of_pack(name))
    lost = 0
    for frame in in_frames(copy.entry for copy in copies):
        wanted = {entry.blob for entry in frame if not _is_elsewhere(shelf, entry.blob, name)}
        if not wanted:
            continue
        try:
            lost += len(shelf.move(frame, wanted, shelf.read(name, frame[0])))
        except (DamagedError, FileNotFoundError):
            lost += len(wanted)
    shelf.flush()
    shelf.ask(lambda index: index.drop([name]))
    _put_aside(shelf.place, name)
    whole = f"{len(copies) - lost} of its {len(copies)} blobs were brought to a new pack"
    return f"Pack {name} is damaged; {whole}, and it lies in {shelf.place.damaged} now."


def _is_elsewhere(shelf: Shelf, blob: bytes, name: str) -> bool:
    """Tell whether a sound copy of a blob lies in another pack than this one."""
    return any(copy.pack != name and not copy.bad for copy in shelf.ask(partial(Index.find, blob=blob)))
