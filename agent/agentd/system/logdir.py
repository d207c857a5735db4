"""The log segments of a job directory, by name and size.

A segment is named by the logical offset of its first byte, so that a hole between two
segments is a gap that explains itself: dropped by retention, or never written because the
disk was full. ``<stream>.end`` holds the offset up to which bytes were discarded on a full disk
after the last segment's end.
"""

from __future__ import annotations

import os
import struct

from agentd.core.rotation import Segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Stream names, as they stand in file names.
OUT = "out"
ERR = "err"

_SUFFIX = ".log"
_OFFSET_DIGITS = 20
#: One entry of the time index: logical offset, wall clock nanoseconds.
INDEX_ENTRY = struct.Struct("<QQ")
_INDEX_STEP_NS = 100_000_000
_INDEX_DOUBLING_BYTES = 1 << 20


def index_step_ns(index_bytes: int) -> int:
    """Return how far apart entries of a time index of this size are at least.

    Twice as far for each MiB, so that the index of a job that never ends stays small. The last
    entry holds for as long.
    """
    return _INDEX_STEP_NS << (index_bytes // _INDEX_DOUBLING_BYTES)


def segment_name(stream: str, offset: int) -> str:
    """Return the file name of the segment that begins at `offset`."""
    return f"{stream}-{offset:020d}.log"


def list_segments(directory: str, stream: str) -> list[Segment]:
    """Return the segments on disk in order of offset. A vanished directory has none."""
    try:
        return sorted(_segments(directory, stream), key=lambda segment: segment.offset)
    except FileNotFoundError:
        return []


def _segments(directory: str, stream: str) -> Iterator[Segment]:
    with os.scandir(directory) as entries:
        for entry in entries:
            offset = _offset_in(entry.name, f"{stream}-")
            if offset is None:
                continue
            try:
                yield Segment(offset, entry.stat().st_size)
            except FileNotFoundError:
                # Dropped by retention between the listing and the look.
                continue


def _offset_in(name: str, prefix: str) -> int | None:
    digits = name.removeprefix(prefix).removesuffix(_SUFFIX)
    is_ours = name == f"{prefix}{digits}{_SUFFIX}" and len(digits) == _OFFSET_DIGITS
    return int(digits) if is_ours and digits.isdecimal() and digits.isascii() else None


def discarded_to(directory: str, stream: str) -> int:
    """Return the offset up to which bytes were discarded on a full disk; 0 for none."""
    try:
        with open(f"{directory}/{stream}.end", "rb") as file:
            return int(file.read(64).strip() or b"0")
    except (FileNotFoundError, ValueError):
        return 0


def end_offset(directory: str, stream: str) -> int:
    """Return the logical end: how many bytes the job has written so far, gaps included."""
    segments = list_segments(directory, stream)
    end = segments[-1].end if segments else 0
    return max(end, discarded_to(directory, stream))
