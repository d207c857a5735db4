"""Reading a job's output."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.job import FileOutput, MergedOutput, Output, SplitOutput, TerminalOutput
from agentd.errors import WrongStateError
from agentd.server.runtime.logs import (
    AtEnd,
    Chunk,
    Gap,
    GapReason,
    Log,
    SegmentLog,
    TimeIndex,
    log_bytes,
    open_log,
    stream_name,
)
from agentd.system import logdir
from tests.helpers.logfiles import begin, segment, time_index


def read_all(log: Log, offset: int = 0, max_bytes: int = 1 << 20) -> list[Chunk | Gap]:
    """Read to the end; every answer begins where it was asked for."""
    found: list[Chunk | Gap] = []
    while not isinstance(item := log.read(offset, max_bytes), AtEnd):
        assert item.offset == offset
        offset = item.end
        found.append(item)
    return found


def test_bytes_come_from_every_segment_in_order(tmp_path: Path) -> None:
    """Segments without a hole read as one log."""
    segment(tmp_path, 0, b"abc")
    segment(tmp_path, 3, b"defg")
    assert read_all(SegmentLog(str(tmp_path), "out")) == [Chunk(0, b"abc"), Chunk(3, b"defg")]


@given(st.data())
def test_any_offset_yields_the_rest_of_the_log(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Wherever a read begins and however large its pieces are."""
    directory = tmp_path_factory.mktemp("job")
    pieces = data.draw(st.lists(st.binary(min_size=1, max_size=9), max_size=6))
    offset = 0
    for piece in pieces:
        segment(directory, offset, piece)
        offset += len(piece)
    whole = b"".join(pieces)
    start = data.draw(st.integers(0, len(whole) + 2))
    log = SegmentLog(str(directory), "out")
    chunks = read_all(log, start, data.draw(st.integers(1, 5)))
    assert b"".join(c.data for c in chunks if isinstance(c, Chunk)) == whole[start:]
    log.close()


def test_a_log_without_segments_is_at_its_end(tmp_path: Path) -> None:
    """A job that has not written, and a directory that is gone, have nothing to read."""
    assert SegmentLog(str(tmp_path), "out").read(0) == AtEnd()
    assert SegmentLog(str(tmp_path / "gone"), "out").read(5) == AtEnd()


def test_dropped_segments_are_a_gap_by_retention(tmp_path: Path) -> None:
    """The head and the tail stand, the middle is named as gone."""
    segment(tmp_path, 0, b"head")
    segment(tmp_path, 100, b"tail")
    retention = GapReason.RETENTION
    log = SegmentLog(str(tmp_path), "out")
    assert read_all(log) == [Chunk(0, b"head"), Gap(4, 100, retention), Chunk(100, b"tail")]
    assert log.read(50) == Gap(50, 100, retention)


def test_discarded_bytes_at_the_end_are_a_gap_by_a_full_disk(tmp_path: Path) -> None:
    """While the disk is full, the mark says how far the job has written."""
    segment(tmp_path, 0, b"head")
    (tmp_path / "out.end").write_bytes(b"%-64d" % 10)
    log = SegmentLog(str(tmp_path), "out")
    assert read_all(log) == [Chunk(0, b"head"), Gap(4, 10, GapReason.DISK_FULL)]
    assert log.end() == 10


def test_a_recorded_gap_keeps_its_reason_inside_a_larger_hole(tmp_path: Path) -> None:
    """Retention around a full disk: three pieces, each with its own reason."""
    segment(tmp_path, 0, b"head")
    segment(tmp_path, 100, b"tail")
    torn = b'{"from": 70, "t'
    gaps = json.dumps({"from": 20, "to": 30}).encode() + b"\n" + torn
    (tmp_path / "out.gaps").write_bytes(gaps)
    assert read_all(SegmentLog(str(tmp_path), "out"))[1:4] == [
        Gap(4, 20, GapReason.RETENTION),
        Gap(20, 30, GapReason.DISK_FULL),
        Gap(30, 100, GapReason.RETENTION),
    ]


def test_a_gap_not_yet_recorded_is_known_by_the_mark(tmp_path: Path) -> None:
    """The pump records a gap only once it writes again; its mark is there before."""
    segment(tmp_path, 0, b"head")
    segment(tmp_path, 10, b"tail")
    (tmp_path / "out.end").write_bytes(b"%-64d" % 10)
    assert SegmentLog(str(tmp_path), "out").read(4) == Gap(4, 10, GapReason.DISK_FULL)


def test_a_segment_dropped_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    """The open descriptor outlives the name, also for bytes written after the first read."""
    segment(tmp_path, 0, b"head")
    middle = segment(tmp_path, 4, b"mid")
    log = SegmentLog(str(tmp_path), "out")
    assert log.read(4, 2) == Chunk(4, b"mi")
    with middle.open("ab") as file:
        middle.unlink()
        segment(tmp_path, 50, b"tail")
        file.write(b"dle")
    assert read_all(log, 6) == [
        Chunk(6, b"ddle"),
        Gap(10, 50, GapReason.RETENTION),
        Chunk(50, b"tail"),
    ]


def test_an_empty_segment_made_anew_is_found(tmp_path: Path) -> None:
    """On a full disk the pump removes an empty segment and later makes it again."""
    segment(tmp_path, 0, b"head")
    segment(tmp_path, 4, b"")
    log = SegmentLog(str(tmp_path), "out")
    assert log.read(4) == AtEnd()
    (tmp_path / logdir.segment_name("out", 4)).unlink()
    segment(tmp_path, 4, b"more")
    assert log.read(4) == Chunk(4, b"more")


def reference_tail(data: bytes, lines: int) -> bytes:
    """Return the last lines, the plain way."""
    return b"".join(data.splitlines(keepends=True)[-lines:]) if lines else b""


@given(st.lists(st.sampled_from([b"a", b"bb", b"\n", b"\n\n", b"c\n"]), max_size=30), st.data())
def test_a_tail_is_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, words: list[bytes], data: st.DataObject
) -> None:
    """However the lines are spread over segments; an unfinished line counts."""
    directory, whole, offset = tmp_path_factory.mktemp("job"), b"".join(words), 0
    while offset < len(whole):
        size = data.draw(st.integers(1, 5))
        segment(directory, offset, whole[offset : offset + size])
        offset += size
    lines = data.draw(st.integers(0, 8))
    log = SegmentLog(str(directory), "out")
    assert whole[log.tail(lines) :] == reference_tail(whole, lines)
    log.close()


def test_a_tail_reads_back_over_many_blocks(tmp_path: Path) -> None:
    """Lines longer than a block."""
    whole = b"".join(b"%d" % n * 30_000 + b"\n" for n in range(10))
    segment(tmp_path, 0, whole)
    for lines in (1, 3, 9, 10, 11):
        expected = len(whole) - len(reference_tail(whole, lines))
        assert SegmentLog(str(tmp_path), "out").tail(lines) == expected


def test_a_tail_stops_at_a_gap_and_begins_with_it(tmp_path: Path) -> None:
    """Lines of the head are not the last ones, and the hole before the tail is told."""
    segment(tmp_path, 0, b"1\n2\n3\n")
    segment(tmp_path, 100, b"rest of a line\nx\n")
    log = SegmentLog(str(tmp_path), "out")
    assert log.tail(1) == 115
    assert log.tail(5) == 6
    assert log.read(6) == Gap(6, 100, GapReason.RETENTION)


S = 1_000_000_000


def test_since_begins_at_the_first_entry_of_that_time(tmp_path: Path) -> None:
    """Nothing written since is left out; a torn last entry is none."""
    time_index(tmp_path, (0, 10 * S), (50, 20 * S), (90, 30 * S), torn=b"torn")
    index = TimeIndex(str(tmp_path), "out")
    assert [index.offset_at(at * S) for at in (0, 15, 20, 25, 31, 32)] == [0, 50, 50, 90, 90, None]
    index.close()


def test_since_finds_everything_in_a_job_that_has_written_for_months(tmp_path: Path) -> None:
    """The longer the index, the rarer its entries: what an entry holds for grows alike."""
    count = (5 << 20) // logdir.INDEX_ENTRY.size
    step_ns = logdir.index_step_ns(5 << 20)
    assert step_ns == S * 32 // 10
    time_index(tmp_path, *((10 * n, n * step_ns) for n in range(count)))
    index = TimeIndex(str(tmp_path), "out")
    last_ns = (count - 1) * step_ns
    written_ns = last_ns + step_ns - 1
    assert index.offset_at(written_ns) == 10 * (count - 1)
    assert index.offset_at(last_ns + step_ns + 2 * S) is None
    index.close()


def test_times_of_a_chunk_begin_with_the_entry_in_force(tmp_path: Path) -> None:
    """The first byte of a chunk has a time too."""
    time_index(tmp_path, (0, 1), (50, 2), (90, 3), (120, 4))
    index = TimeIndex(str(tmp_path), "out")
    assert index.between(60, 120, 99) == [(50, 2), (90, 3)]
    assert index.between(0, 51, 99) == [(0, 1), (50, 2)]
    assert index.between(0, 500, 2) == [(0, 1), (50, 2)]
    assert index.between(500, 501, 9) == [(120, 4)]
    index.close()


def test_a_missing_index_has_no_times(tmp_path: Path) -> None:
    """Losing it costs only times; the shim makes it when the job begins to write."""
    index = TimeIndex(str(tmp_path), "out")
    assert index.offset_at(0) is None
    assert index.between(0, 10, 10) == []
    time_index(tmp_path, (0, 7))
    assert index.between(0, 10, 10) == [(0, 7)]
    index.close()


@pytest.mark.parametrize(
    "output",
    [
        MergedOutput(),
        TerminalOutput(80, 24),
        FileOutput("/o", None, append=False),
        FileOutput("/o", "/o", append=False),
    ],
)
def test_stderr_that_is_not_kept_apart_is_refused(output: Output) -> None:
    """The message says how to have it."""
    with pytest.raises(WrongStateError, match="--split-stderr"):
        stream_name(output, stderr=True)


def test_stderr_that_is_kept_apart_has_its_own_stream() -> None:
    """Split output and a file of its own."""
    assert stream_name(SplitOutput(), stderr=True) == "err"
    assert stream_name(FileOutput("/o", "/e", append=False), stderr=True) == "err"
    assert stream_name(SplitOutput(), stderr=False) == "out"


def test_a_users_file_is_read_from_where_the_job_began(tmp_path: Path) -> None:
    """With --append, what stood there before is not the job's."""
    (tmp_path / "log").write_bytes(b"old\nnew\nnewer\n")
    begin(tmp_path, out_base_bytes=4)
    output = FileOutput(str(tmp_path / "log"), None, append=True)
    log = open_log(str(tmp_path), output, "out", must_exist=True)
    assert read_all(log) == [Chunk(0, b"new\nnewer\n")]
    assert (log.tail(1), log.tail(9), log.end()) == (4, 0, 10)
    assert log_bytes(str(tmp_path), output) == 10
    log.close()


def test_before_the_job_has_begun_an_older_file_of_the_name_is_not_its_log(tmp_path: Path) -> None:
    """Only the pidfile says from which byte on the file is the job's."""
    (tmp_path / "log").write_bytes(b"older")
    output = FileOutput(str(tmp_path / "log"), None, append=True)
    log = open_log(str(tmp_path), output, "out", must_exist=False)
    assert log.read(0) == AtEnd()
    begin(tmp_path, out_base_bytes=5)
    assert log.read(0) == AtEnd()
    (tmp_path / "log").write_bytes(b"older, mine")
    assert log.read(0) == Chunk(0, b", mine")
    log.close()


def test_a_users_file_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    """One clear line once the job is over."""
    begin(tmp_path)
    output = FileOutput(str(tmp_path / "gone"), None, append=False)
    with pytest.raises(WrongStateError, match="no output file"):
        open_log(str(tmp_path), output, "out", must_exist=True)
    assert log_bytes(str(tmp_path), output) == 0


def test_a_users_file_that_was_truncated_ends_early(tmp_path: Path) -> None:
    """What was cut off counts as not written."""
    (tmp_path / "log").write_bytes(b"0123")
    begin(tmp_path)
    output = FileOutput(str(tmp_path / "log"), None, append=False)
    log = open_log(str(tmp_path), output, "out", must_exist=True)
    assert log.read(2) == Chunk(2, b"23")
    (tmp_path / "log").write_bytes(b"")
    assert log.read(2) == AtEnd()
    log.close()


def test_a_users_fifo_is_not_read(tmp_path: Path) -> None:
    """Its bytes are for whoever reads it."""
    os.mkfifo(tmp_path / "log")
    begin(tmp_path)
    output = FileOutput(str(tmp_path / "log"), None, append=False)
    with pytest.raises(WrongStateError, match="regular file"):
        open_log(str(tmp_path), output, "out", must_exist=False).read(0)
