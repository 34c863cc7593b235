"""Noticing that files are written to, by what the kernel tells (inotify); see tracking.py for what comes of it.

What is noticed is a hint, never the truth: notices may be lost, and some file systems send none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from threading import Event, Lock, Thread

import msgspec

from rfs.production.rollback.errors import UsageError

# How long a stop, or the first look, may wait: it costs one wake-up each.
_BEAT_MILLISECONDS = 1_000
_STEP_MILLISECONDS = 250
_JOIN_SECONDS = 10.0


class Place(msgspec.Struct, frozen=True):
    """What is watched for one component.

    Attributes:
        folder: watched.
        file: the one file in it that counts; None: all that is in it, at any depth.
    """

    folder: str
    file: str | None = None


def require_watchfiles() -> None:
    """Raise UsageError when what notices is not installed."""
    try:
        import watchfiles  # noqa: F401 — only whether it is there
    except ImportError as error:
        raise UsageError("track.missing") from error


class Noticer:
    """Watches places in threads of its own.

    Args:
        places: by component.
        counts: tells whether a path of a component counts.
        noticed: called, in a thread of the noticer, with the component.
    """

    def __init__(
        self, places: Mapping[str, Place], counts: Callable[[str, str], bool], noticed: Callable[[str], None]
    ) -> None:
        self.places = dict(places)
        self._counts = counts
        self._noticed = noticed
        self._stop = Event()
        self._threads: list[Thread] = []
        self._begun: dict[bool, Event] = {}
        self._guard = Lock()
        self._why: dict[str, str] = {}

    @property
    def why(self) -> dict[str, str]:
        """By component, why nothing can be noticed of it."""
        with self._guard:
            return dict(self._why)

    def start(self) -> None:
        """Watch; what is written after this returns is noticed, where `why` says nothing else."""
        for deep in (True, False):
            names = [name for name, place in self.places.items() if (place.file is None) is deep]
            if names:
                self._begun[deep] = Event()
                thread = Thread(target=self._run, args=(deep, names), name="rfs noticing", daemon=True)
                self._threads.append(thread)
                thread.start()
        for begun in self._begun.values():
            begun.wait(_JOIN_SECONDS)

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def _run(self, deep: bool, names: list[str]) -> None:
        from watchfiles import watch

        folders = sorted({self.places[name].folder for name in names})
        try:
            changes = watch(
                *folders,
                watch_filter=None,
                debounce=_BEAT_MILLISECONDS,
                step=_STEP_MILLISECONDS,
                stop_event=self._stop,
                rust_timeout=_BEAT_MILLISECONDS,
                yield_on_timeout=True,
                raise_interrupt=False,
                recursive=deep,
                # Else the limits of inotify would be passed over in silence, too.
                ignore_permission_denied=False,
            )
            for found in changes:
                self._begun[deep].set()
                for name in names:
                    if any(self._is_of(name, path) for _, path in found):
                        self._noticed(name)
        except (OSError, RuntimeError) as error:
            # A limit of inotify, a folder that is not there, or a file system that has nothing like it.
            with self._guard:
                self._why.update(dict.fromkeys(names, str(error)))
        finally:
            self._begun[deep].set()

    def _is_of(self, name: str, path: str) -> bool:
        place = self.places[name]
        if place.file is not None:
            return path == os.path.join(place.folder, place.file)
        return path.startswith(place.folder.rstrip("/") + "/") and self._counts(name, path)
