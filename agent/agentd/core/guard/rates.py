"""How fast a size grows. Pure.

A rate is only ever taken between two looks of one unbroken row: after a long gap (a paused
machine, a starved warden) the row begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from agentd.core.guard.units import S_NS

#: How far back the fastest rate counts.
WINDOW_NS = 2 * S_NS
#: What is told to people is the rate over about this time.
_TOLD_NS = S_NS
#: Points closer than this replace each other: the row stays short at 500 looks a second.
_SPACING_NS = S_NS // 25
#: Below this time between two points a counter's batching is all there is to see.
_SHORTEST_NS = S_NS // 2000


@dataclass(frozen=True, slots=True)
class Point:
    """A size at a time."""

    at_ns: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Gauge:
    """A size as seen over the last two seconds, oldest first; the last point is the newest."""

    points: tuple[Point, ...] = ()

    def seen(self, at_ns: int, size_bytes: int) -> Gauge:
        """Return the gauge with one more point; a point not newer than the last is ignored."""
        point = Point(at_ns, size_bytes)
        points = self.points
        if not points:
            return Gauge((point,))
        if at_ns <= points[-1].at_ns:
            return self
        # The newest point always stands; it is kept for good once it is far from the one before.
        if len(points) > 1 and points[-1].at_ns - points[-2].at_ns < _SPACING_NS:
            points = points[:-1]
        first = 0
        while first < len(points) - 1 and at_ns - points[first].at_ns > WINDOW_NS:
            first += 1
        return Gauge((*points[first:], point))

    def fastest_bytes_per_s(self, at_ns: int) -> int:
        """Return the fastest growth between neighbours of the last two seconds, at least 0."""
        fastest = 0
        for before, after in pairwise(self.points):
            if at_ns - after.at_ns <= WINDOW_NS:
                fastest = max(fastest, _rate(before, after))
        return fastest

    def rate_bytes_per_s(self) -> int:
        """Return the growth over the last second or so, negative if it shrinks."""
        if len(self.points) < 2:  # noqa: PLR2004  # a rate takes two points
            return 0
        newest = self.points[-1]
        since = self.points[-2]
        for point in self.points[:-1]:
            if newest.at_ns - point.at_ns <= _TOLD_NS:
                since = point
                break
        return _rate(since, newest)


def _rate(before: Point, after: Point) -> int:
    elapsed_ns = after.at_ns - before.at_ns
    if elapsed_ns < _SHORTEST_NS:
        return 0
    return (after.size_bytes - before.size_bytes) * S_NS // elapsed_ns
