"""A full disk neither blocks nor ends a job: what could not be written is a hole that is told."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from agentd.shim import pump
from agentd.shim.pump import LogLimits, Progress
from agentd.system import logdir
from tests.helpers.wait import wait_until
from tests.unit.agentd.shim.pumping import (
    ROOMY,
    Station,
    blank_mark,
    pattern,
    pieces,
    station,
    whole,
)
from tests.unit.agentd.system.sandbox import fill, isolated, mount_tmpfs, remount_tmpfs

pytestmark = pytest.mark.root

DATA = pattern(4 << 20)
CHANNELS = pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])


class Disk:
    """A small disk of our own, the current directory, with a file that can fill it."""

    def __init__(self, path: Path, options: str = "size=512k") -> None:
        """Mount it and reserve the mark of lost bytes."""
        mount_tmpfs(str(path), f"{options},mode=700")
        os.chdir(path)
        blank_mark()
        # In this process alone: the tests need not wait as long as a job may.
        pump._RETRY_NS = 20_000_000

    def fill(self) -> None:
        """Leave no byte."""
        fill("ballast")

    def free(self) -> None:
        """Have room again."""
        os.unlink("ballast")


@contextlib.contextmanager
def job(*, terminal: bool, limits: LogLimits = ROOMY) -> Iterator[Job]:
    """Yield a job that prints DATA piece by piece."""
    with station(limits, terminal=terminal) as at:
        yield Job(at)


class Job:
    """Prints DATA from the beginning on, as much at a time as it is told."""

    def __init__(self, at: Station) -> None:
        """Print into this channel."""
        self.at = at
        self.written = 0

    def print(self, size_bytes: int) -> None:
        """Print the next bytes; all that was printed is taken, whatever becomes of it."""
        self.at.feed(DATA[self.written :][:size_bytes])
        self.written += size_bytes
        assert self.at.drain() is Progress.IDLE
        assert logdir.end_offset(".", "out") == self.at.pump.offset == self.written

    def has_tried(self) -> bool:
        """Say whether there is an empty segment: the pump has room, and waits for bytes."""
        self.print(0)
        return pieces()[-1][1] == b""

    def print_until_it_is_written(self) -> None:
        """Print a little at a time until the log takes it again."""

        def is_written() -> bool:
            self.print(100)
            offset, piece = pieces()[-1] if pieces() else (0, b"")
            return bool(piece) and self.written == offset + len(piece)

        wait_until(is_written, what="bytes in the log again")


def holes() -> list[tuple[int, int]]:
    """Return where bytes are missing between segments, after a look at those that are there."""
    there = [(0, b""), *pieces()]
    assert all(piece == DATA[offset:][: len(piece)] for offset, piece in there)
    return [
        (offset + len(piece), after)
        for (offset, piece), (after, _) in pairwise(there)
        if offset + len(piece) < after
    ]


def told() -> list[tuple[int, int]]:
    """Return the holes that were entered as a full disk's."""
    lines = Path("out.gaps").read_text(encoding="ascii").splitlines()
    return [(body["from"], body["to"]) for body in map(json.loads, lines)]


@CHANNELS
@isolated
def test_a_full_disk_is_a_hole_that_is_told(tmp_path: Path, *, terminal: bool) -> None:
    """The job prints on, every byte counts, and what is written later stands in its place."""
    disk = Disk(tmp_path)
    with job(terminal=terminal) as prints:
        prints.print(50_000)
        disk.fill()
        prints.print(300_000)
        assert logdir.discarded_to(".", "out") == 350_000
        disk.free()
        prints.print_until_it_is_written()
        prints.print(50_000)
        prints.at.finish()

        assert len(holes()) == 1
        assert told() == holes()


@CHANNELS
@isolated
def test_a_disk_that_is_full_twice_makes_two_holes(tmp_path: Path, *, terminal: bool) -> None:
    """Each with its own entry."""
    disk = Disk(tmp_path)
    with job(terminal=terminal) as prints:
        for _ in range(2):
            prints.print(20_000)
            disk.fill()
            prints.print(100_000)
            disk.free()
            prints.print_until_it_is_written()

        assert len(holes()) == 2
        assert told() == holes()


@CHANNELS
@isolated
def test_a_disk_that_stays_full_makes_one_hole(tmp_path: Path, *, terminal: bool) -> None:
    """However often the pump tries again meanwhile."""
    disk = Disk(tmp_path)
    with job(terminal=terminal) as prints:
        prints.print(20_000)
        disk.fill()
        prints.print(20_000)
        tried: set[int] = set()

        def has_tried_twice() -> bool:
            # Each try makes a segment and takes it away again.
            tried.add(os.stat(".").st_mtime_ns)
            prints.print(50)
            assert len([piece for _, piece in pieces() if not piece]) <= 1
            return len(tried) > 2

        wait_until(has_tried_twice, what="two tries to write")
        disk.free()
        prints.print_until_it_is_written()

        assert len(holes()) == 1
        assert told() == holes()


@CHANNELS
@isolated
def test_a_log_may_begin_with_a_hole(tmp_path: Path, *, terminal: bool) -> None:
    """The disk was full at the first byte."""
    disk = Disk(tmp_path)
    disk.fill()
    with job(terminal=terminal) as prints:
        prints.print(100_000)
        assert not any(piece for _, piece in pieces())
        disk.free()
        prints.print_until_it_is_written()

        ((start, end),) = holes()
        assert (start, end >= 100_000) == (0, True)
        assert told() == holes()


@CHANNELS
@isolated
def test_a_log_may_end_with_a_hole(tmp_path: Path, *, terminal: bool) -> None:
    """The mark, whose room was reserved, says how far it goes."""
    disk = Disk(tmp_path)
    with job(terminal=terminal) as prints:
        prints.print(10_000)
        disk.fill()
        prints.print(100_000)
        prints.at.feed(DATA[110_000:110_500])
        prints.at.finish()

        assert holes() == []
        assert logdir.end_offset(".", "out") == logdir.discarded_to(".", "out") == 110_500


@CHANNELS
@isolated
def test_a_pump_killed_on_a_full_disk_is_continued(tmp_path: Path, *, terminal: bool) -> None:
    """By one that finds the disk full still, and one that finds room."""
    disk = Disk(tmp_path)
    with job(terminal=terminal) as prints:
        prints.print(10_000)
        disk.fill()
        prints.print(30_000)
        prints.at.kill()
        prints.print(30_000)
        prints.at.kill()
        disk.free()
        prints.print_until_it_is_written()
        prints.at.kill()
        prints.print(1000)
        prints.at.finish()

        assert len(holes()) == 1
        assert told() == holes()


@CHANNELS
@isolated
def test_a_pump_killed_at_a_try_to_write_leaves_the_hole_to_be_told(
    tmp_path: Path, *, terminal: bool
) -> None:
    """It has begun a segment and waits for the next bytes."""
    disk = Disk(tmp_path)
    with job(terminal=terminal) as prints:
        prints.print(10_000)
        disk.fill()
        prints.print(30_000)
        wait_until(prints.has_tried, what="a try to write")
        prints.at.kill()
        disk.free()
        prints.print_until_it_is_written()

        assert len(holes()) == 1
        assert told() == holes()


@CHANNELS
@isolated
def test_a_disk_without_room_for_any_file_is_a_full_disk(tmp_path: Path, *, terminal: bool) -> None:
    """No segment and no index can be made: the job goes on all the same."""
    disk = Disk(tmp_path, "size=512k,nr_inodes=3")
    disk.fill()
    with job(terminal=terminal) as prints:
        prints.print(100_000)
        disk.free()
        prints.print_until_it_is_written()

        ((start, end),) = holes()
        assert (start, end >= 100_000) == (0, True)


@isolated
def test_without_room_for_another_file_a_segment_grows_too_long(tmp_path: Path) -> None:
    """Better than bytes that are lost; later ones are as they should be."""
    Disk(tmp_path, "size=2m,nr_inodes=5")
    Path("ballast").touch()
    limits = LogLimits(segment_bytes=10_000, retention_bytes=40_000)
    with job(terminal=False, limits=limits) as prints:
        prints.print(25_000)
        assert whole() == DATA[:25_000]
        os.unlink("ballast")
        prints.print(15_000)
        assert whole() == DATA[:40_000]
        assert len(pieces()) == 2


@isolated
def test_a_log_keeps_to_its_retention_again_once_there_is_room_for_files(tmp_path: Path) -> None:
    """A time without inodes is no reason to fill the disk later."""
    Disk(tmp_path, "size=4m,nr_inodes=5")
    Path("ballast").touch()
    limits = LogLimits(segment_bytes=10_000, retention_bytes=100_000)
    with job(terminal=False, limits=limits) as prints:
        prints.print(75_000)
        os.unlink("ballast")
        remount_tmpfs(str(tmp_path), "size=4m,nr_inodes=10000")
        prints.print(1_000_000)

        sizes = [len(piece) for _, piece in pieces()]
        assert sum(sizes) <= 100_000
        assert max(sizes[2:]) <= 10_000


@isolated
def test_a_full_disk_grows_no_segment_past_its_limit(tmp_path: Path) -> None:
    """Rotation and retention go on before the hole and after it."""
    disk = Disk(tmp_path)
    limits = LogLimits(segment_bytes=10_000, retention_bytes=80_000)
    with job(terminal=False, limits=limits) as prints:
        prints.print(200_000)
        disk.fill()
        prints.print(200_000)
        disk.free()
        prints.print_until_it_is_written()
        prints.print(200_000)

        there = [(offset, len(piece)) for offset, piece in pieces()]
        assert there[0] == (0, 10_000)
        assert max(size_bytes for _, size_bytes in there) <= 10_000
        assert sum(size_bytes for _, size_bytes in there) <= 80_000
