"""Which segments of a log may go: every rule, for every log that hypothesis can think of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentd.core.rotation import Segment, droppable, segment_limit_bytes

#: Only the newest may be empty: it is made before its first byte.
SIZES: st.SearchStrategy[list[int]] = st.builds(
    lambda full, newest: [*full, newest],
    st.lists(st.integers(1, 1000), max_size=11),
    st.integers(0, 1000),
) | st.just([])
RETENTIONS = st.integers(0, 5000)


def log_of(sizes: list[int], holes: list[int]) -> list[Segment]:
    """Return segments of these sizes with holes between them."""
    segments: list[Segment] = []
    offset = 0
    for size_bytes, hole in zip(sizes, holes, strict=False):
        segments.append(Segment(offset, size_bytes))
        offset += size_bytes + hole
    return segments


LOGS = st.builds(log_of, SIZES, st.lists(st.integers(0, 100), min_size=12, max_size=12))


def total_bytes(segments: list[Segment]) -> int:
    """Return what they take on disk."""
    return sum(segment.size_bytes for segment in segments)


@given(LOGS, RETENTIONS)
def test_the_head_and_the_newest_are_never_dropped(log: list[Segment], retention: int) -> None:
    """The head says what the job was, the newest is being written."""
    assert set(droppable(log, retention)) <= set(log[1:-1])


@given(LOGS, RETENTIONS)
def test_the_rest_fits_whenever_that_is_possible(log: list[Segment], retention: int) -> None:
    """It is possible unless head and newest alone are too much; then nothing else is left."""
    doomed = droppable(log, retention)
    rest = [segment for segment in log if segment not in doomed]

    assert total_bytes(rest) <= retention or rest == [*log[:1], *log[1:][-1:]]


@given(LOGS, RETENTIONS)
def test_the_oldest_go_first(log: list[Segment], retention: int) -> None:
    """What is dropped is one run of segments right behind the head."""
    doomed = droppable(log, retention)

    assert doomed == log[1 : 1 + len(doomed)]


@given(LOGS, RETENTIONS)
def test_nothing_goes_without_need(log: list[Segment], retention: int) -> None:
    """With one segment fewer dropped it would not fit."""
    doomed = droppable(log, retention)

    if doomed:
        kept = [segment for segment in log if segment not in doomed[:-1]]
        assert total_bytes(kept) > retention


@given(LOGS, RETENTIONS)
def test_a_second_look_drops_nothing_more(log: list[Segment], retention: int) -> None:
    """What was kept may be kept."""
    doomed = droppable(log, retention)

    assert droppable([segment for segment in log if segment not in doomed], retention) == []


@given(st.integers(1, 1 << 40), st.integers(0, 1 << 40))
def test_a_segment_is_small_enough_for_retention_to_act(segment: int, retention: int) -> None:
    """Head, newest, one to drop and one to begin fit, unless retention is a few bytes."""
    limit = segment_limit_bytes(segment, retention)

    assert 1 <= limit <= segment
    assert 4 * limit <= retention or limit == 1


@given(st.integers(1, 1 << 40))
def test_a_segment_is_as_large_as_asked_where_retention_allows(segment: int) -> None:
    """Four of them have to fit."""
    assert segment_limit_bytes(segment, 4 * segment) == segment
    assert segment_limit_bytes(segment, 8 * segment) == segment


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_a_segment_ends_where_the_next_byte_goes(offset: int, size_bytes: int) -> None:
    """Offset and size in bytes."""
    assert Segment(offset, size_bytes).end == offset + size_bytes
