"""Tells the event loop when files change: inotify(7) through watchdog, no polling.

One observer for the whole server, started with the first watch. Watchdog runs one thread
that reads the kernel's queue, one that calls handlers, and one for each watched directory,
so a directory is watched once however many callers ask for it. A callback runs in the loop's
thread, soon after the change, and at most once for all changes since it last ran: it must
look for itself at what has changed, and must not raise.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, cast

import structlog

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers.api import ObservedWatch
    from watchdog.observers.inotify import InotifyObserver

_log = structlog.get_logger()


class Interest(Enum):
    """What of a directory is watched."""

    #: Bytes written to files in it. Never renames: watchdog holds a queue up for 0.5 s after
    #: a file was moved away, waiting for the other half of the pair, and every log line
    #: behind it would be late.
    CONTENT = "content"
    #: Names made, moved, replaced or removed, and files written. May be 0.5 s late.
    NAMES = "names"


class _Handler:
    """Brings a directory's events from watchdog's thread into the loop, as few as possible."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callbacks: set[Callable[[], None]]) -> None:
        self._loop = loop
        self._callbacks = callbacks
        self._pending = False

    def dispatch(self, _event: FileSystemEvent) -> None:
        """Called by watchdog, in its thread."""
        if self._pending:
            return
        self._pending = True
        try:
            self._loop.call_soon_threadsafe(self._run)
        except RuntimeError:
            # The loop is closed: the server ends.
            return

    def _run(self) -> None:
        # First, so that a change during the callbacks calls them again.
        self._pending = False
        for callback in tuple(self._callbacks):
            callback()


@dataclass(slots=True)
class _Watched:
    watch: ObservedWatch
    inode: tuple[int, int]
    callbacks: set[Callable[[], None]] = field(default_factory=set)


class FileWatches:
    """The server's watches. Every method belongs to the loop's thread."""

    def __init__(self) -> None:
        """Needs a running loop. Starts nothing yet."""
        self._loop = asyncio.get_running_loop()
        self._observer: InotifyObserver | None = None
        self._watched: dict[tuple[str, Interest], _Watched] = {}

    def add(self, directory: str, interest: Interest, callback: Callable[[], None]) -> None:
        """Call `callback` in the loop after each change in `directory`.

        Raises:
            OSError: The directory is gone, or the kernel's limit of watches or instances is
                reached (ENOSPC, EMFILE), or that of threads (EAGAIN).

        """
        key = (directory, interest)
        watched = self._watched.get(key)
        status = os.stat(directory)
        inode = (status.st_dev, status.st_ino)
        if watched is not None and watched.inode != inode:
            # Made anew under the same name: the old watch hears nothing any more.
            callbacks = watched.callbacks
            self._unschedule(self._watched.pop(key))
            watched = self._schedule(key, inode, callbacks)
        elif watched is None:
            watched = self._schedule(key, inode, set())
        watched.callbacks.add(callback)

    def remove(self, directory: str, interest: Interest, callback: Callable[[], None]) -> None:
        """Call `callback` no more; the last one ends the watch. Unknown ones are no error."""
        watched = self._watched.get((directory, interest))
        if watched is None:
            return
        watched.callbacks.discard(callback)
        if not watched.callbacks:
            self._unschedule(self._watched.pop((directory, interest)))

    def close(self) -> None:
        """End every watch and every thread."""
        self._watched.clear()
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None

    def _schedule(
        self, key: tuple[str, Interest], inode: tuple[int, int], callbacks: set[Callable[[], None]]
    ) -> _Watched:
        observer = self._running_observer()
        # It has the one method that watchdog calls; subclassing would load watchdog at start.
        handler = cast("FileSystemEventHandler", _Handler(self._loop, callbacks))
        try:
            watch = observer.schedule(handler, key[0], event_filter=_event_filter(key[1]))
        except RuntimeError as error:
            # "can't start new thread": the user's limit of processes (RLIMIT_NPROC).
            raise OSError(errno.EAGAIN, str(error)) from error
        watched = self._watched[key] = _Watched(watch, inode, callbacks)
        return watched

    def _running_observer(self) -> InotifyObserver:
        if self._observer is None:
            from watchdog.observers.inotify import InotifyObserver  # noqa: PLC0415  # 40 ms

            observer = InotifyObserver()
            observer.start()
            self._observer = observer
        return self._observer

    def _unschedule(self, watched: _Watched) -> None:
        if self._observer is None:
            return
        try:
            self._observer.unschedule(watched.watch)
        except (KeyError, OSError) as error:
            # Watchdog has dropped it itself, with the directory.
            _log.debug("watch.gone", error=str(error))


def _event_filter(interest: Interest) -> list[type[FileSystemEvent]]:
    from watchdog import events  # noqa: PLC0415  # loaded with the observer

    if interest is Interest.CONTENT:
        return [events.FileModifiedEvent]
    return [
        events.FileModifiedEvent,
        events.FileCreatedEvent,
        events.FileDeletedEvent,
        events.FileMovedEvent,
        events.DirCreatedEvent,
        events.DirDeletedEvent,
        events.DirMovedEvent,
    ]
