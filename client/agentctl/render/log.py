"""A log's bytes with a time before each line, and its gaps in words."""

from __future__ import annotations

from agentctl.model import Chunk, Gap, GapReason, LogTime
from agentctl.render.units import format_rfc3339

_WHY = {
    GapReason.RETENTION: "dropped to keep the log within its size",
    GapReason.DISK_FULL: "never written: the disk was full",
}


def gap_line(gap: Gap) -> str:
    """Return one line, newline included, that stands for the missing bytes. Pure."""
    return f"[gap: {gap.to_offset - gap.from_offset:,} bytes {_WHY[gap.reason]}]\n"


class LineStamper:
    """Puts the time it was written before each line; keeps its place between chunks."""

    def __init__(self) -> None:
        """Begin at the start of a line, with no time known."""
        self._at_line_start = True
        self._known: LogTime | None = None

    def broken_line(self) -> None:
        """Note that the next byte does not continue the line: bytes before it are missing."""
        self._at_line_start = True

    def stamp(self, chunk: Chunk) -> bytes:
        """Return the chunk's bytes with a time before each line that begins in it."""
        times = list(chunk.times)
        out = bytearray()
        offset = chunk.offset
        for line in chunk.data.splitlines(keepends=True) if chunk.data else ():
            while times and times[0].offset <= offset:
                self._known = times.pop(0)
            if self._at_line_start:
                out += self._prefix()
            out += line
            offset += len(line)
            self._at_line_start = line.endswith(b"\n")
        return bytes(out)

    def _prefix(self) -> bytes:
        if self._known is None:
            return b"-".ljust(24) + b" "
        return format_rfc3339(self._known.written_at, "milliseconds").encode() + b" "
