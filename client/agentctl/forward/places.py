"""Which local port a forward gets: the same one every time, as far as it is free.

Bookmarks and the settings of editors name a port, so what a host's port was forwarded to is
kept in `forwards.json` below the client's state directory. It is a convenience: one that
cannot be read is as good as none.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket

from agentctl.link.private import check_private, replace_file

#: Beyond these the oldest are forgotten.
_MOST_KEPT = 500
_FIRST_FREE_TO_ALL = 1024
_LAST_PORT = 65535
_NEXT_TRIED = 50
_BACKLOG = 128
_LOOPBACK = "127.0.0.1"


def candidates(wanted: int | None, kept: int | None, number: int | None) -> list[int]:
    """Return the local ports to try, in order; 0 is any. Pure.

    Args:
        wanted: Asked for.
        kept: That of last time.
        number: The target's own.

    """
    first = wanted or kept or number
    if first is None:
        return [0]
    last = min(first + _NEXT_TRIED, _LAST_PORT)
    tried = list(range(first, last + 1))
    if first < _FIRST_FREE_TO_ALL and wanted is None:
        # Those below are root's: ask for what people have learned to type instead.
        tried = [first, *range(first + 8000, first + 8000 + _NEXT_TRIED)]
    return [*tried, 0]


def listen(ports: list[int]) -> socket.socket:
    """Return a socket that listens on loopback at the first of these that is to be had.

    Raises:
        OSError: None is.

    """
    failure = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    for port in ports:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # Connections of the last time that still wind down are no reason to move.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_LOOPBACK, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            failure = error
            continue
        return listener
    raise failure


class Memory:
    """The local port of each target, by a key that says host, job and place."""

    def __init__(self, directory: str) -> None:
        """Keep it in `directory`, made at the first `keep`."""
        self._directory = directory
        self._path = f"{directory}/forwards.json"

    def recall(self, key: str) -> int | None:
        """Return the port of last time, or None."""
        return self._read().get(key)

    def keep(self, key: str, port: int) -> None:
        """Remember it for next time. Raises UnsafeDirectoryError or OSError."""
        os.makedirs(self._directory, 0o700, exist_ok=True)
        check_private(self._directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(f"{self._directory}/forwards.lock", flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._read()
            if known.get(key) == port:
                return
            # Last is newest.
            known.pop(key, None)
            known[key] = port
            kept = dict(list(known.items())[-_MOST_KEPT:])
            replace_file(self._path, json.dumps(kept, indent=2).encode())
        finally:
            os.close(lock)

    def _read(self) -> dict[str, int]:
        try:
            with open(self._path, "rb") as file:
                content = json.loads(file.read())
        except (OSError, ValueError):
            return {}
        if not isinstance(content, dict):
            return {}
        return {k: v for k, v in content.items() if type(v) is int and 0 < v <= _LAST_PORT}
