"""Moves one output stream of a job into log segments.

From a pipe the bytes go by splice(2), without passing through Python; a pseudo-terminal is
read and written. What the kernel has moved is in the file and no longer in the pipe, so a
pump killed at any point is continued by another from the segment's end.

A file that cannot be written (full disk, quota) must neither block nor end the job: bytes
are then read and discarded, and the logical offset goes on. ``<stream>.end``, allocated at
submit, is advanced *before* the bytes are taken: a kill in between makes the gap look longer,
never a byte vanish without a gap.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import sys
import termios
import time

from agentd.core.rotation import Segment, droppable, segment_limit_bytes
from agentd.core.value import Value
from agentd.system.clock import wall_ns
from agentd.system.crashpoint import reach
from agentd.system.files import write_all
from agentd.system.logdir import (
    INDEX_ENTRY,
    discarded_to,
    index_step_ns,
    list_segments,
    segment_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

#: Capacity of a busy pipe; the most that an ordinary user may ask for (pipe(7)).
BUSY_PIPE_BYTES = 1 << 20
_DEFAULT_PIPE_BYTES = 1 << 16
_MOVE_BYTES = 1 << 20
_COPY_BYTES = 1 << 16
#: After this long on a full disk the pump tries again to write.
_RETRY_NS = 250_000_000
#: Small writes closer together than this are collected before they are moved.
_CHATTY_NS = 2_000_000
_CHATTY_BYTES = 16 << 10
_COLLECT_S = 0.001


class Progress:
    """What one step found: one of three objects. An Enum would bring a module into every shim."""

    __slots__ = ()

    MOVED: ClassVar[Progress]
    IDLE: ClassVar[Progress]
    END: ClassVar[Progress]


Progress.MOVED, Progress.IDLE, Progress.END = Progress(), Progress(), Progress()


class LogLimits(Value):
    """How large a segment and the whole log of one stream may grow."""

    __slots__ = ("retention_bytes", "segment_bytes")

    def __init__(self, segment_bytes: int, retention_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.retention_bytes = retention_bytes


class Pump:
    """One stream, from a non-blocking descriptor into the current directory."""

    def __init__(self, stream: str, source: int, limits: LogLimits) -> None:
        """Begin a log; nothing is opened before the first byte. Takes `source` over."""
        self.source = source
        self._stream = stream
        self._limit_bytes = segment_limit_bytes(limits.segment_bytes, limits.retention_bytes)
        #: At which size the present segment is full.
        self._full_at_bytes = self._limit_bytes
        self._retention_bytes = max(0, limits.retention_bytes - self._limit_bytes)
        self._is_pipe = True
        self._grown = False
        self._segments: list[Segment] = []
        self._file = -1
        self._gap_from: int | None = None
        self._retry_at_ns = 0
        self._last_move_ns = 0
        self._index: _TimeIndex | None = None
        self.offset = 0

    def resume(self) -> None:
        """Go on where the segments on disk end."""
        self._segments = list_segments(".", self._stream)
        discarded = discarded_to(".", self._stream)
        if discarded and Segment(discarded, 0) in self._segments[-1:]:
            # Made at a try to write, on a disk that was full: the hole before it goes on.
            self._drop(self._segments[-1])
        written = self._segments[-1].end if self._segments else 0
        self.offset = max(written, discarded)
        if self.offset > written:
            self._gap_from = written
        elif self._segments:
            self._reopen(self._segments[-1])

    def collect(self) -> None:
        """Let a job that writes many short lines write a few more before they are moved."""
        if time.monotonic_ns() - self._last_move_ns < _CHATTY_NS:
            time.sleep(_COLLECT_S)

    def step(self) -> Progress:
        """Move what is there, one system call's worth."""
        if self._index is None:
            seen = self._look()
            if seen is not Progress.MOVED:
                # A job that never writes has no files for it: two inodes less a launch.
                return seen
            self._is_pipe = _is_pipe(self.source)
            self._index = _TimeIndex(f"{self._stream}.idx")
        return self._step()

    def _step(self) -> Progress:
        if self._file < 0 and not self._open_segment():
            return self._discard()
        room = self._full_at_bytes - self._segments[-1].size_bytes
        try:
            moved = self._move(min(room, _MOVE_BYTES))
        except BlockingIOError:
            return Progress.IDLE
        except OSError:
            return self._begin_gap()
        if moved == 0:
            return Progress.END
        self._account(moved)
        return Progress.MOVED

    def _look(self) -> Progress:
        """Say whether there is something to move, without moving it."""
        poll = select.poll()
        poll.register(self.source, select.POLLIN)
        events = poll.poll(0)
        if not events:
            return Progress.IDLE
        return Progress.MOVED if events[0][1] & select.POLLIN else Progress.END

    def _move(self, count: int) -> int:
        if self._is_pipe:
            try:
                return os.splice(self.source, self._file, count, flags=os.SPLICE_F_NONBLOCK)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # This file system cannot splice.
        return self._copy(min(count, _COPY_BYTES))

    def _copy(self, count: int) -> int:
        # Read only after the write is known to fit would need a second buffer; a terminal's
        # bytes that do not fit become part of the gap instead.
        try:
            data = os.read(self.source, count)
        except OSError as error:
            if error.errno == errno.EIO:
                # The last descriptor of the terminal's other side is closed (pty(7)).
                return 0
            raise
        try:
            write_all(self._file, data)
        except OSError:
            kept = os.lseek(self._file, 0, os.SEEK_CUR) - self._segments[-1].size_bytes
            self._account(kept)
            if self._gap_from is None:
                self._gap_from = self.offset
            self._note_discarded(len(data) - kept)
            raise
        return len(data)

    def _account(self, moved: int) -> None:
        now_ns = time.monotonic_ns()
        if moved < _CHATTY_BYTES:
            self._last_move_ns = now_ns
        elif moved >= _DEFAULT_PIPE_BYTES and not self._grown:
            self._grow_pipe()
        if self._gap_from is not None and moved:
            self._record_gap(self._gap_from)
        if self._index is not None:
            self._index.note(self.offset)
        last = self._segments[-1]
        self._segments[-1] = Segment(last.offset, last.size_bytes + moved)
        self.offset += moved
        if self._segments[-1].size_bytes >= self._full_at_bytes:
            self._rotate()

    def _record_gap(self, from_offset: int) -> None:
        """Say that this hole between two segments was a full disk, not retention."""
        self._gap_from = None
        line = b'{"from": %d, "to": %d}\n' % (from_offset, self.offset)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            descriptor = os.open(f"{self._stream}.gaps", flags, 0o600)
        except OSError:
            return
        try:
            write_all(descriptor, line)
        except OSError:
            pass  # The hole itself remains, and it is what readers go by.
        finally:
            os.close(descriptor)

    def _grow_pipe(self) -> None:
        # Only for jobs that fill their pipe: all pipes of a user share one soft limit, and
        # past it new pipes get a single page (pipe(7), pipe-user-pages-soft).
        self._grown = True
        try:
            fcntl.fcntl(self.source, fcntl.F_SETPIPE_SZ, BUSY_PIPE_BYTES)
        except OSError:
            return

    def _rotate(self) -> None:
        reach("shim.rotate")
        full = self._file
        if not self._open_segment():
            # Better a segment that is too long than bytes that are lost.
            self._file = full
            self._full_at_bytes = self._segments[-1].size_bytes + self._limit_bytes
            return
        os.close(full)
        for segment in droppable(self._segments, self._retention_bytes):
            self._drop(segment)

    def _drop(self, segment: Segment) -> None:
        self._segments.remove(segment)
        try:
            os.unlink(segment_name(self._stream, segment.offset))
        except OSError:
            # Gone already, or on a disk that turned read-only: no reason to end the job.
            return

    def _reopen(self, segment: Segment) -> None:
        self._file = os.open(segment_name(self._stream, segment.offset), os.O_WRONLY | os.O_CLOEXEC)
        os.lseek(self._file, 0, os.SEEK_END)
        if segment.size_bytes >= self._limit_bytes:
            self._rotate()

    def _open_segment(self) -> bool:
        """Begin a segment at the current offset; False if the disk does not let us."""
        if self._gap_from is not None and time.monotonic_ns() < self._retry_at_ns:
            return False
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = os.open(segment_name(self._stream, self.offset), flags, 0o600)
        except OSError:
            return False
        self._segments.append(Segment(self.offset, 0))
        self._full_at_bytes = self._limit_bytes
        return True

    def _begin_gap(self) -> Progress:
        """The current segment takes no more bytes: discard until one does again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._segments and self._segments[-1].size_bytes == 0:
            self._drop(self._segments[-1])
        if self._gap_from is None:
            self._gap_from = self.offset
        self._retry_at_ns = time.monotonic_ns() + _RETRY_NS
        return self._discard()

    def _discard(self) -> Progress:
        if self._gap_from is None:
            self._gap_from = self.offset
        waiting = self._waiting_bytes()
        if waiting:
            self._note_discarded(waiting)
        try:
            data = os.read(self.source, waiting or _COPY_BYTES)
        except BlockingIOError:
            return Progress.IDLE
        except OSError:
            return Progress.END
        if not waiting and data:
            self._note_discarded(len(data))
        return Progress.MOVED if data else Progress.END

    def _waiting_bytes(self) -> int:
        try:
            answer = fcntl.ioctl(self.source, termios.FIONREAD, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(answer, sys.byteorder)

    def _note_discarded(self, count: int) -> None:
        self.offset += count
        try:
            marker = os.open(f"{self._stream}.end", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            # Allocated at submit; only a copy-on-write file system can still refuse.
            os.pwrite(marker, b"%-64d" % self.offset, 0)
        except OSError:
            return
        finally:
            os.close(marker)


class _TimeIndex:
    """Appends (offset, wall time) now and then; losing it costs only --since and --timestamps."""

    def __init__(self, name: str) -> None:
        self._file = -1
        self._size_bytes = 0
        self._last_ns: int | None = None
        try:
            self._open(name)
        except OSError:
            # No room for a new file, for example: the log goes on without its index.
            return

    def _open(self, name: str) -> None:
        self._file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size_bytes = os.fstat(self._file).st_size
        torn = self._size_bytes % INDEX_ENTRY.size
        if torn:
            self._size_bytes -= torn
            os.ftruncate(self._file, self._size_bytes)

    def note(self, offset: int) -> None:
        """Enter that the byte at `offset` was written now, unless the last entry is fresh."""
        step_ns = index_step_ns(self._size_bytes)
        now_ns = wall_ns()
        # Readers take it that an entry holds for a step: also where the clock has jumped.
        if self._last_ns is not None and abs(now_ns - self._last_ns) < step_ns:
            return
        self._last_ns = now_ns
        try:
            self._size_bytes += os.write(self._file, INDEX_ENTRY.pack(offset, now_ns))
        except OSError:
            return


def _is_pipe(descriptor: int) -> bool:
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
