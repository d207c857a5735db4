"""Log segments by name and size, and where a log ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.rotation import Segment
from agentd.system import logdir
from tests.helpers.logfiles import segment


def test_segments_are_listed_in_order_of_their_offsets(tmp_path: Path) -> None:
    """With their sizes; holes between them are left as they are."""
    segment(tmp_path, 1000, b"z" * 5)
    segment(tmp_path, 0, b"a" * 10)
    segment(tmp_path, 20, b"")

    assert logdir.list_segments(str(tmp_path), "out") == [
        Segment(0, 10),
        Segment(20, 0),
        Segment(1000, 5),
    ]


def test_each_stream_has_its_own_segments(tmp_path: Path) -> None:
    """Of the same directory."""
    segment(tmp_path, 0, b"out")
    segment(tmp_path, 0, b"error", "err")

    assert logdir.list_segments(str(tmp_path), "out") == [Segment(0, 3)]
    assert logdir.list_segments(str(tmp_path), "err") == [Segment(0, 5)]


@pytest.mark.parametrize(
    "name",
    [
        "out-1.log",
        "out-00000000000000000001.log.tmp",
        "xout-00000000000000000001.log",
        "out-0000000000000000000a.log",
        "out.idx",
        "out.end",
        "OUT-00000000000000000001.log",
        "out-00000000000000000001.log\n",
    ],
)
def test_what_is_not_named_like_a_segment_is_none(tmp_path: Path, name: str) -> None:
    """Other files of the directory, and what a user put there."""
    (tmp_path / name).write_bytes(b"x")

    assert logdir.list_segments(str(tmp_path), "out") == []


@given(st.sampled_from(["out", "err"]), st.integers(0, 10**20 - 1))
def test_names_sort_as_offsets_do(stream: str, offset: int) -> None:
    """Twenty digits, so that ls(1) shows a log in order."""
    name = logdir.segment_name(stream, offset)

    assert logdir.segment_name(stream, max(0, offset - 1)) <= name
    assert int(name.removeprefix(f"{stream}-").removesuffix(".log")) == offset


def test_a_directory_that_is_gone_has_no_log(tmp_path: Path) -> None:
    """The job was removed meanwhile."""
    gone = str(tmp_path / "gone")

    assert logdir.list_segments(gone, "out") == []
    assert logdir.discarded_to(gone, "out") == 0
    assert logdir.end_offset(gone, "out") == 0


def test_a_log_ends_after_its_last_byte_gaps_included(tmp_path: Path) -> None:
    """Offsets are logical: dropped and lost bytes count."""
    segment(tmp_path, 0, b"a" * 10)
    assert logdir.end_offset(str(tmp_path), "out") == 10

    segment(tmp_path, 500, b"b" * 7)

    assert logdir.end_offset(str(tmp_path), "out") == 507


@pytest.mark.parametrize(("mark", "end"), [(b"", 10), (b"7", 10), (b"10", 10), (b"99", 99)])
def test_bytes_lost_at_the_end_count_as_well(tmp_path: Path, mark: bytes, end: int) -> None:
    """Once there is room again, the segments count."""
    segment(tmp_path, 0, b"a" * 10)
    (tmp_path / "out.end").write_bytes(mark.ljust(64) + b" " * 960)

    assert logdir.discarded_to(str(tmp_path), "out") == int(mark or b"0")
    assert logdir.end_offset(str(tmp_path), "out") == end
    assert logdir.end_offset(str(tmp_path), "err") == 0


@pytest.mark.parametrize("mark", [b"", b" " * 1024, b"\0" * 1024, b"noise", b"1 2", b"\xff" * 64])
def test_a_mark_without_sense_marks_nothing(tmp_path: Path, mark: bytes) -> None:
    """Blank from the beginning, or torn by a power cut."""
    (tmp_path / "out.end").write_bytes(mark)

    assert logdir.discarded_to(str(tmp_path), "out") == 0


def test_a_segment_that_goes_during_the_look_is_not_listed(tmp_path: Path) -> None:
    """Retention may act at any moment: a name that leads nowhere."""
    os.symlink("gone", tmp_path / logdir.segment_name("out", 0))
    segment(tmp_path, 10, b"x")

    assert logdir.list_segments(str(tmp_path), "out") == [Segment(10, 1)]
