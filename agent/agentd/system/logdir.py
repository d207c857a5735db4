"""The log segments of a job directory, by name and size.

A segment is named by the logical offset of its first byte, so that a hole between two
segments is a gap that explains itself: dropped by retention, or never written because the
disk was full. ``<stream>.end`` holds the offset up to which bytes were discarded on a full disk
after the last segment's end.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator

from agentd.core.rotation import Segment

#: Stream names, as they stand in file names.
OUT = "out"
ERR = "err"

_NAME = re.compile(r"(out|err)-(\d{20})\.log")
#: One entry of the time index: logical offset, wall clock nanoseconds.
INDEX_ENTRY = struct.Struct("<QQ")


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
            match = _NAME.fullmatch(entry.name)
            if match is None or match[1] != stream:
                continue
            try:
                yield Segment(int(match[2]), entry.stat().st_size)
            except FileNotFoundError:
                # Dropped by retention between the listing and the look.
                continue


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
