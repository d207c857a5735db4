"""Reads what a job wrote, from any offset.

Offsets are logical: byte 0 is the first the job ever wrote, and a hole between segments is
answered with a `Gap`, never skipped in silence. The segment being read is held open, so
that one dropped by retention meanwhile is still read to its end. No thread and no state beyond that
descriptor: the caller keeps the offset.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from agentd.core.job import FileOutput, Output, SplitOutput
from agentd.core.rotation import Segment
from agentd.errors import AgentError, WrongStateError
from agentd.system import jobdir, logdir
from agentd.system.files import system_error

#: Largest piece of data one `read` returns.
MAX_CHUNK_BYTES = 256 << 10
_BLOCK_BYTES = 64 << 10
#: Between a job's write and the entry for it, the pump and the clocks take their time.
_INDEX_SLACK_NS = 1_000_000_000


class GapReason(Enum):
    """Why bytes are gone."""

    #: Dropped to keep the log within its size.
    RETENTION = "retention"
    #: Never written: the disk was full.
    DISK_FULL = "disk_full"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes as the job wrote them; the first has offset `offset`."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """Offset after the last byte."""
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that are gone: from `offset` up to but without `end`."""

    offset: int
    end: int
    reason: GapReason


@dataclass(frozen=True, slots=True)
class AtEnd:
    """The job has not written beyond the offset asked for."""


class Log(Protocol):
    """One stream of a job's output."""

    @property
    def directory(self) -> str:
        """Where to watch for writes."""

    def read(self, offset: int, max_bytes: int = MAX_CHUNK_BYTES) -> Chunk | Gap | AtEnd:
        """Return what stands at `offset`. Raises AgentError if the kernel refuses."""

    def end(self) -> int:
        """Return the offset after the last byte so far."""

    def tail(self, lines: int) -> int:
        """Return where the last `lines` lines begin; a gap ends the search, where it begins."""

    def close(self) -> None:
        """Let go of the open file."""


def stream_name(output: Output, *, stderr: bool) -> str:
    """Return the stream (`logdir.OUT` or `logdir.ERR`) that holds what is asked for. Pure.

    Raises:
        WrongStateError: stderr was asked for and is not kept apart.

    """
    if not stderr:
        return logdir.OUT
    apart = isinstance(output, SplitOutput) or (
        isinstance(output, FileOutput) and output.stderr_path not in {None, output.stdout_path}
    )
    if not apart:
        raise WrongStateError(
            "stderr is not kept apart from stdout; submit with --split-stderr to have it so"
        )
    return logdir.ERR


def open_log(directory: str, output: Output, stream: str, *, must_exist: bool) -> Log:
    """Return the log of `stream` (from `stream_name`) of the job in `directory`.

    Raises:
        WrongStateError: `must_exist`, and the user's own file is gone.

    """
    if not isinstance(output, FileOutput):
        return SegmentLog(directory, stream)
    is_err = stream == logdir.ERR and output.stderr_path is not None
    path = output.stderr_path if is_err and output.stderr_path else output.stdout_path
    return FileLog(directory, path, is_err=is_err, must_exist=must_exist)


class SegmentLog:
    """A log kept by the agent, in segments."""

    def __init__(self, directory: str, stream: str) -> None:
        """Touches nothing yet."""
        self._directory = directory
        self._stream = stream
        self._descriptor = -1
        self._held_offset = 0

    @property
    def directory(self) -> str:
        """Where to watch for writes."""
        return self._directory

    def read(self, offset: int, max_bytes: int = MAX_CHUNK_BYTES) -> Chunk | Gap | AtEnd:
        """Return what stands at `offset`."""
        data = self._pread(offset, max_bytes)
        if data:
            return Chunk(offset, data)
        while True:
            answer = self._look(offset, max_bytes)
            if answer is not None:
                return answer

    def _look(self, offset: int, max_bytes: int) -> Chunk | Gap | AtEnd | None:
        """None: retention dropped a file under our hands; look again."""
        # The order matters: only a segment listed before its predecessor was read empty, and
        # a mark read before the listing, prove that nothing more comes at `offset`.
        discarded_to = logdir.discarded_to(self._directory, self._stream)
        segments = logdir.list_segments(self._directory, self._stream)
        # What is held may have grown, been rotated and dropped since it was last read empty.
        data = self._pread(offset, max_bytes)
        before = [segment for segment in segments if segment.offset <= offset]
        if not data and before:
            if not self._hold(before[-1]):
                return None
            data = self._pread(offset, max_bytes)
        if data:
            return Chunk(offset, data)
        if len(before) < len(segments):
            return self._hole(offset, segments[len(before)].offset, discarded_to)
        if discarded_to > offset:
            return Gap(offset, discarded_to, GapReason.DISK_FULL)
        return AtEnd()

    def _hole(self, offset: int, end: int, discarded_to: int) -> Gap | None:
        # A listing may miss a file made while it ran: a gap is only told once confirmed.
        again = logdir.list_segments(self._directory, self._stream)
        after = [segment.offset for segment in again if segment.offset > offset]
        if not after or after[0] != end or any(s.offset <= offset < s.end for s in again):
            return None
        ranges = self._disk_full_ranges()
        if discarded_to == end and all(stop != end for _, stop in ranges):
            # The pump enters a gap only after it has written again, and may find no room to.
            return Gap(offset, end, GapReason.DISK_FULL)
        return _first_gap(offset, end, ranges)

    def _disk_full_ranges(self) -> list[tuple[int, int]]:
        ranges: list[tuple[int, int]] = []
        try:
            with open(f"{self._directory}/{self._stream}.gaps", "rb") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            return ranges
        for line in lines:
            try:
                body = json.loads(line)
                ranges.append((int(body["from"]), int(body["to"])))
            except (ValueError, KeyError, TypeError):
                # A torn line: the disk was full when it was written.
                continue
        return sorted(ranges)

    def end(self) -> int:
        """Return the offset after the last byte so far, gaps included."""
        return logdir.end_offset(self._directory, self._stream)

    def tail(self, lines: int) -> int:
        """Return where the last `lines` lines begin; a gap ends the search, where it begins."""
        segments = logdir.list_segments(self._directory, self._stream)
        if lines == 0 or not segments:
            return self.end()
        scan = _TailScan(lines)
        start = segments[-1].end
        for segment in reversed(segments):
            if segment.end < start:
                return segment.end
            if not self._hold(segment):
                # Dropped since the listing: from here back there is a gap.
                return segment.offset
            found = _scan_back(self._descriptor, segment.offset, segment.size_bytes, scan)
            if found is not None:
                return found
            start = segment.offset
        return 0

    def close(self) -> None:
        """Let go of the open segment."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _hold(self, segment: Segment) -> bool:
        """Hold the segment open instead of the one held so far; False if it is gone."""
        if (
            self._descriptor >= 0
            and self._held_offset == segment.offset
            # The pump removes an empty segment on a full disk and may make it anew.
            and os.fstat(self._descriptor).st_nlink > 0
        ):
            return True
        path = f"{self._directory}/{logdir.segment_name(self._stream, segment.offset)}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise system_error(f"read the log segment {path}", error) from error
        self.close()
        self._descriptor, self._held_offset = descriptor, segment.offset
        return True

    def _pread(self, offset: int, max_bytes: int) -> bytes:
        if self._descriptor < 0 or offset < self._held_offset:
            return b""
        return _pread(self._descriptor, max_bytes, offset - self._held_offset, self._directory)


def _first_gap(offset: int, end: int, disk_full: list[tuple[int, int]]) -> Gap:
    """Return the first piece of the hole [offset, end) that has one reason. Pure."""
    for start, stop in disk_full:
        if stop <= offset or start >= end:
            continue
        if start <= offset:
            return Gap(offset, min(stop, end), GapReason.DISK_FULL)
        end = start
    return Gap(offset, end, GapReason.RETENTION)


class FileLog:
    """Output in the user's own file: our byte 0 is `base_bytes` into it.

    Whoever owns the file may truncate, move or remove it. What was cut off counts as not
    written: the log then ends where the file does.
    """

    def __init__(self, job_directory: str, path: str, *, is_err: bool, must_exist: bool) -> None:
        """Find the file; before the job has opened it, the log is empty.

        Raises:
            WrongStateError: `must_exist`, and the file is gone.

        """
        self._job_directory = job_directory
        self._path = path
        self._is_err = is_err
        self._base_bytes = 0
        self._descriptor = -1
        if not self._find() and must_exist:
            raise WrongStateError(f"there is no output file {path} (any more)")

    @property
    def directory(self) -> str:
        """Where to watch for writes."""
        return os.path.dirname(os.path.realpath(self._path))

    def _find(self) -> bool:
        """Open the file if the job has begun; an older file of this name is not ours."""
        if self._descriptor >= 0:
            return True
        pid = jobdir.read_pid(self._job_directory)
        if pid is None:
            return False
        self._base_bytes = pid.err_base_bytes if self._is_err else pid.out_base_bytes
        try:
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                # Reading a FIFO or a terminal would take the bytes from their reader.
                raise WrongStateError(f"{self._path} is not a regular file: nothing to read back")
            # NONBLOCK: what is put in the file's place now must not stop the server.
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise system_error(f"read the output file {self._path}", error) from error
        return True

    def read(self, offset: int, max_bytes: int = MAX_CHUNK_BYTES) -> Chunk | Gap | AtEnd:
        """Return what stands at `offset`."""
        if not self._find():
            return AtEnd()
        data = _pread(self._descriptor, max_bytes, self._base_bytes + offset, self._path)
        return Chunk(offset, data) if data else AtEnd()

    def end(self) -> int:
        """Return the offset after the last byte in the file."""
        if not self._find():
            return 0
        return max(0, os.fstat(self._descriptor).st_size - self._base_bytes)

    def tail(self, lines: int) -> int:
        """Return where the last `lines` lines begin."""
        end = self.end()
        if lines == 0 or end == 0:
            return end
        scan = _TailScan(lines)
        found = _scan_back(self._descriptor, 0, end, scan, base_bytes=self._base_bytes)
        return found or 0

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(slots=True)
class _TailScan:
    """How many line ends are still to be passed, going backwards."""

    lines: int
    #: The newline that ends the very last line begins no other one.
    at_last_byte: bool = True


def _scan_back(
    descriptor: int, offset: int, size_bytes: int, scan: _TailScan, *, base_bytes: int = 0
) -> int | None:
    """Return the logical offset after the newline looked for, or None if it is further back.

    The file's byte `base_bytes` has the logical offset `offset`.
    """
    position = size_bytes
    while position > 0:
        begin = max(0, position - _BLOCK_BYTES)
        block = os.pread(descriptor, position - begin, base_bytes + begin)
        stop = len(block)
        if scan.at_last_byte and block:
            scan.at_last_byte = False
            stop -= block.endswith(b"\n")
        while (at := block.rfind(b"\n", 0, stop)) >= 0:
            scan.lines -= 1
            if scan.lines == 0:
                return offset + begin + at + 1
            stop = at
        position = begin
    return None


def _pread(descriptor: int, max_bytes: int, position: int, what: str) -> bytes:
    try:
        return os.pread(descriptor, max_bytes, position)
    except OSError as error:
        raise system_error(f"read the log in {what}", error) from error


class TimeIndex:
    """When bytes were written: ``out.idx``, entries of (offset, wall clock) that only grow.

    Entries are in order of offset. Their times are in order too unless somebody set the
    clock back; a search by time is then only as good as the clock was.
    """

    def __init__(self, directory: str, stream: str) -> None:
        """Touches nothing yet; a missing index is empty, and may be made any time."""
        self._path = f"{directory}/{stream}.idx"
        self._descriptor = -1

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def offset_at(self, wall_ns: int) -> int | None:
        """Return where to begin so that nothing written since `wall_ns` is left out.

        What the entry holds for and up to a second more may come with it. None: everything
        is older.
        """
        index = self._bisect(self._holds_until, wall_ns - _INDEX_SLACK_NS)
        return self._entry(index)[0] if index < self._count() else None

    def between(self, offset: int, end: int, limit: int) -> list[tuple[int, int]]:
        """Return the entry in force at `offset` and those up to `end`, at most `limit`."""
        first = max(0, self._bisect(self._offset, offset + 1) - 1)
        last = min(self._bisect(self._offset, end), first + limit)
        if last <= first:
            return []
        size = logdir.INDEX_ENTRY.size
        data = os.pread(self._descriptor, (last - first) * size, first * size)
        whole = data[: len(data) - len(data) % size]
        return list(logdir.INDEX_ENTRY.iter_unpack(whole))

    def _count(self) -> int:
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return 0
        # A torn last entry is no entry.
        return os.fstat(self._descriptor).st_size // logdir.INDEX_ENTRY.size

    def _entry(self, index: int) -> tuple[int, int]:
        size = logdir.INDEX_ENTRY.size
        offset, wall_ns = logdir.INDEX_ENTRY.unpack(os.pread(self._descriptor, size, index * size))
        return offset, wall_ns

    def _offset(self, index: int) -> int:
        return self._entry(index)[0]

    def _holds_until(self, index: int) -> int:
        """Return when the next entry was due: without one, nothing was written later."""
        size_bytes = (index + 1) * logdir.INDEX_ENTRY.size
        return self._entry(index)[1] + logdir.index_step_ns(size_bytes)

    def _bisect(self, key: Callable[[int], int], value: int) -> int:
        """Return the first entry whose `key`, which grows with the index, is at least `value`."""
        low, high = 0, self._count()
        while low < high:
            middle = (low + high) // 2
            if key(middle) < value:
                low = middle + 1
            else:
                high = middle
        return low


def log_bytes(job_directory: str, output: Output) -> int:
    """Return how many bytes a job has written so far, gaps included; 0 if that is not known."""
    if not isinstance(output, FileOutput):
        return logdir.end_offset(job_directory, logdir.OUT)
    try:
        log = open_log(job_directory, output, logdir.OUT, must_exist=False)
        try:
            return log.end()
        finally:
            log.close()
    except AgentError:
        # The file is the user's: it may have become anything.
        return 0
