"""Files of /proc that are read again and again, and kept open as long as there is room.

pread(2) at offset 0 makes the kernel write the text anew. A descriptor below /proc/PID belongs to
the process and not to its number: once that process is gone it answers ESRCH, whoever has the
number by then.
"""

from __future__ import annotations

import errno
import os
import resource

_PATH_FLAGS = os.O_RDONLY | os.O_CLOEXEC
#: open(2): no room for one more descriptor, here or on the whole host.
_NO_ROOM = (errno.EMFILE, errno.ENFILE)
_READ_BYTES = 4096


class Descriptors:
    """How many files are kept open, by all gauges together: the rest is opened for each look.

    Half of what the process may open is left to others. When there is no room all the same a
    quarter of those kept is given back, for good: whoever else opens files needs some too.
    """

    def __init__(self, limit: int = 4096) -> None:
        """`limit`: no more than this, whatever RLIMIT_NOFILE allows (getrlimit(2))."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._limit = limit if soft == resource.RLIM_INFINITY else min(limit, soft // 2)
        self._kept: dict[KeptFile, int] = {}

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._kept)

    def open(self, path: str) -> int:
        """Open for reading; makes room once if there is none. Raises OSError."""
        try:
            return os.open(path, _PATH_FLAGS)
        except OSError as error:
            if error.errno not in _NO_ROOM or not self.give_back():
                raise
        return os.open(path, _PATH_FLAGS)

    def read(self, path: str, size_bytes: int = _READ_BYTES) -> bytes:
        """Return what a file holds, up to a size, and keep nothing. Raises OSError."""
        descriptor = self.open(path)
        try:
            return os.read(descriptor, size_bytes)
        finally:
            os.close(descriptor)

    def keep(self, file: KeptFile, descriptor: int) -> bool:
        """Say whether there is room to leave it open; it is then closed by `drop`."""
        if len(self._kept) >= self._limit:
            return False
        self._kept[file] = descriptor
        return True

    def drop(self, file: KeptFile) -> None:
        """Close it, if it is open."""
        descriptor = self._kept.pop(file, None)
        if descriptor is not None:
            os.close(descriptor)

    def give_back(self) -> bool:
        """Close a quarter of the kept and keep no more than that from now on; False if none was."""
        kept = len(self._kept)
        if kept == 0:
            return False
        self._limit = kept - max(1, kept // 4)
        for file in list(self._kept)[self._limit :]:
            file.close()
        return True


class KeptFile:
    """One file, open while there is room."""

    __slots__ = ("_descriptor", "_descriptors", "path")

    def __init__(self, path: str, descriptors: Descriptors) -> None:
        """Nothing is opened before the first read."""
        self.path = path
        self._descriptors = descriptors
        self._descriptor = -1

    @property
    def is_open(self) -> bool:
        """Whether it is the same file, and the same process, as at the last read."""
        return self._descriptor >= 0

    def read(self, size_bytes: int = _READ_BYTES) -> bytes:
        """Return what it holds now, from its start. Raises OSError."""
        if self._descriptor >= 0:
            return os.pread(self._descriptor, size_bytes, 0)
        descriptor = self._descriptors.open(self.path)
        try:
            data = os.pread(descriptor, size_bytes, 0)
        except OSError:
            os.close(descriptor)
            raise
        if self._descriptors.keep(self, descriptor):
            self._descriptor = descriptor
        else:
            os.close(descriptor)
        return data

    def close(self) -> None:
        """Give the descriptor back; the next read opens it again."""
        self._descriptor = -1
        self._descriptors.drop(self)
