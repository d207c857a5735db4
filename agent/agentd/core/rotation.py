"""When a log segment is full and which segments may go. Pure."""

from __future__ import annotations

from agentd.core.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: The head, the newest and something between them.
_SEGMENTS_AT_LEAST = 4


class Segment(Value):
    """One file of a log: `size_bytes` bytes from logical offset `offset` on."""

    __slots__ = ("offset", "size_bytes")

    def __init__(self, offset: int, size_bytes: int) -> None:
        self.offset = offset
        self.size_bytes = size_bytes

    @property
    def end(self) -> int:
        """Offset after the last byte."""
        return self.offset + self.size_bytes


def segment_limit_bytes(segment_bytes: int, retention_bytes: int) -> int:
    """Return the size at which a segment is full: small enough that retention can act."""
    return max(1, min(segment_bytes, retention_bytes // _SEGMENTS_AT_LEAST))


def droppable(segments: Sequence[Segment], retention_bytes: int) -> list[Segment]:
    """Return the segments to drop so that the rest and one new full segment fit.

    `segments` in order of offset. The first is the head of the log and stays, the last is
    being written and stays; of the others the oldest go first.
    """
    total_bytes = sum(segment.size_bytes for segment in segments)
    doomed: list[Segment] = []
    for segment in segments[1:-1]:
        if total_bytes <= retention_bytes:
            break
        doomed.append(segment)
        total_bytes -= segment.size_bytes
    return doomed
