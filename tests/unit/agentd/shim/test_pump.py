"""What a job writes is what the segments hold: whatever the chunks, the limits and the kills."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.shim import pump
from agentd.shim.pump import BUSY_PIPE_BYTES, LogLimits, Progress, Pump
from agentd.system import crashpoint, logdir
from agentd.system.logdir import INDEX_ENTRY
from tests.helpers.wait import wait_until
from tests.unit.agentd.shim.pumping import (
    PIPE_BYTES,
    ROOMY,
    Station,
    blank_mark,
    fresh_directory,
    index,
    pattern,
    pieces,
    station,
    whole,
)
from tests.unit.agentd.system.sandbox import fork, isolated

CHUNKS = st.lists(st.integers(1, 400), max_size=10)
#: With each chunk: whether it is pumped at once, and whether the pump is killed after it.
STEPS = st.lists(st.tuples(st.integers(1, 400), st.booleans(), st.booleans()), max_size=10)
#: Large enough that an example makes some hundred files at most.
SMALL = st.integers(20, 1000)


@pytest.fixture(name="here")
def _here() -> Iterator[str]:
    """Yield a new current directory."""
    with fresh_directory() as directory:
        yield directory


def refuse_to_splice(*_: object, **__: object) -> int:
    """Be the splice(2) of a file system that has none."""
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def refuse_as_read_only(*_: object, **__: object) -> int:
    """Be a system call on a disk that turned read-only."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@given(CHUNKS, SMALL)
def test_the_log_is_what_the_job_wrote(chunks: list[int], segment_bytes: int) -> None:
    """Byte by byte across rotations, in segments that are no longer than allowed."""
    data = pattern(sum(chunks))
    with fresh_directory(), station(LogLimits(segment_bytes, 1 << 30)) as at:
        for size_bytes in chunks:
            at.feed(data[at.pump.offset :][:size_bytes])
            assert at.drain() is Progress.IDLE
        at.finish()

        assert whole() == data
        assert all(len(piece) <= segment_bytes for _, piece in pieces())
        assert logdir.end_offset(".", "out") == at.pump.offset == len(data)


@given(CHUNKS, SMALL)
@settings(max_examples=30)
def test_the_log_is_the_same_where_the_kernel_cannot_splice(
    chunks: list[int], segment_bytes: int
) -> None:
    """Some file systems refuse."""
    data = pattern(sum(chunks))
    with (
        fresh_directory(),
        station(LogLimits(segment_bytes, 1 << 30)) as at,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(os, "splice", refuse_to_splice)
        at.feed(data)
        at.finish()

        assert whole() == data
        assert all(len(piece) <= segment_bytes for _, piece in pieces())


@given(CHUNKS, SMALL)
@settings(max_examples=30)
def test_a_terminals_log_is_what_the_job_wrote(chunks: list[int], segment_bytes: int) -> None:
    """And ends with the last descriptor of the job's side (EIO, pty(7)), nothing being lost."""
    data = pattern(sum(chunks))
    with fresh_directory(), station(LogLimits(segment_bytes, 1 << 30), terminal=True) as at:
        for size_bytes in chunks:
            at.feed(data[:size_bytes])
            data = data[size_bytes:]
        at.finish()

        assert whole() == pattern(sum(chunks))


@given(STEPS, SMALL)
def test_a_killed_pump_is_continued_where_it_was(
    steps: list[tuple[int, bool, bool]], segment_bytes: int
) -> None:
    """With bytes left in the pipe or none, in the middle of a segment or at its end."""
    data = pattern(sum(size_bytes for size_bytes, _, _ in steps))
    at_byte = 0
    with fresh_directory(), station(LogLimits(segment_bytes, 1 << 30)) as at:
        for size_bytes, is_pumped, is_killed in steps:
            at.feed(data[at_byte:][:size_bytes])
            at_byte += size_bytes
            if is_pumped:
                at.pump.step()
            if is_killed:
                at.kill()
        at.finish()

        assert whole() == data
        assert all(len(piece) <= segment_bytes for _, piece in pieces())


def write_slowly(sink: int, data: bytes) -> None:
    """Write in uneven pieces, as a job does."""
    chance = random.Random(7)
    while data:
        data = data[os.write(sink, data[: chance.randint(1, 5000)]) :]


@isolated
def test_a_pump_killed_at_any_moment_loses_and_doubles_nothing(here: str) -> None:
    """A real SIGKILL, in the middle of whatever it does, forty times."""
    blank_mark()
    data = pattern(1 << 20)
    limits = LogLimits(10_000, 1 << 30)
    source, sink = os.pipe()
    os.set_blocking(source, False)
    writer = fork(lambda: write_slowly(sink, data))
    os.close(sink)
    chance = random.Random(11)

    def pump_on() -> None:
        pump = Pump("out", source, limits)
        pump.resume()
        while pump.step() is not Progress.END:
            pass

    for _ in range(40):
        pumper = fork(pump_on)
        goal = logdir.end_offset(".", "out") + chance.randint(0, 30_000)
        wait_for_bytes(min(goal, len(data)), pumper)
        os.kill(pumper, signal.SIGKILL)
        os.waitpid(pumper, 0)
    pump_on()

    assert os.waitpid(writer, 0)[1] == 0
    assert whole() == data


def wait_for_bytes(goal: int, pumper: int) -> None:
    """Wait until the log has come so far, or the pump to its end."""
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    wait_until(
        lambda: logdir.end_offset(".", "out") >= goal or os.waitid(os.P_PID, pumper, ended),
        what="bytes in the log",
    )


@isolated
@pytest.mark.parametrize("retention_bytes", [1 << 30, 5000])
def test_a_pump_killed_while_it_rotates_loses_nothing(
    here: str, tmp_path: Path, retention_bytes: int
) -> None:
    """A segment is full and the next one is not there yet."""
    data = pattern(20_000)
    with station(LogLimits(1000, retention_bytes)) as at:
        at.feed(data)
        killed = 0

        def pump_on() -> None:
            at.kill()
            crashpoint._DIRECTORY = str(tmp_path)
            at.drain()

        (tmp_path / "shim.rotate").touch()
        while os.waitpid(fork(pump_on), 0)[1] == signal.SIGKILL:
            killed += 1
            (tmp_path / "shim.rotate").touch()
        at.kill()
        at.finish()

        assert killed == 20
        assert all(piece == data[offset:][: len(piece)] for offset, piece in pieces())
        if retention_bytes > len(data):
            assert whole() == data


@given(
    chunks=CHUNKS,
    segment_bytes=SMALL,
    retention_bytes=st.integers(80, 8000),
    is_killed=st.booleans(),
)
def test_a_log_never_takes_more_than_it_may(
    chunks: list[int], segment_bytes: int, retention_bytes: int, *, is_killed: bool
) -> None:
    """After each step: head and newest there, every byte in its place, the end remembered."""
    data = pattern(sum(chunks))
    with fresh_directory(), station(LogLimits(segment_bytes, retention_bytes)) as at:
        os.write(at.sink, data)
        head = b""
        while at.pump.step() is Progress.MOVED:
            there = pieces()
            assert all(piece == data[offset:][: len(piece)] for offset, piece in there)
            head = head or there[0][1]
            assert (there[0][0], there[0][1][: len(head)]) == (0, head)
            assert logdir.end_offset(".", "out") == at.pump.offset
            assert sum(len(piece) for _, piece in there) <= retention_bytes
            if is_killed:
                at.kill()

        assert at.pump.offset == len(data)


def test_a_source_without_bytes_is_idle_and_makes_no_segment(here: str) -> None:
    """A job that prints nothing leaves no empty file to read."""
    with station() as at:
        assert at.pump.step() is Progress.IDLE
        assert at.drain() is Progress.IDLE
        at.finish()

        assert whole() == b""
        assert logdir.end_offset(".", "out") == 0


def test_what_others_still_hold_open_is_not_at_its_end(here: str) -> None:
    """A child of the job may write after the job."""
    with station() as at:
        other = os.dup(at.sink)
        at.feed(b"job\n")
        os.close(at.sink)
        assert at.drain() is Progress.IDLE

        os.write(other, b"child\n")
        at.sink = other
        at.finish()

        assert whole() == b"job\nchild\n"


def test_segments_are_for_the_owner_alone(here: str) -> None:
    """Output may hold secrets; the index says when it came."""
    with station() as at:
        at.feed(b"x")
        at.finish()

    modes = {name: os.stat(name).st_mode & 0o777 for name in os.listdir(".") if name != "out.end"}
    assert modes == {"out-00000000000000000000.log": 0o600, "out.idx": 0o600}


def test_a_segment_follows_no_symlink(here: str) -> None:
    """Whatever stands in the place of the next one, a user's file is not written over."""
    Path("precious").write_bytes(b"mine")
    os.symlink("precious", "out-00000000000000000000.log")

    with station() as at:
        at.feed(b"x" * 100)
        at.finish()

    assert Path("precious").read_bytes() == b"mine"
    assert logdir.discarded_to(".", "out") == 100


def test_the_time_index_says_when_bytes_came(here: str) -> None:
    """Offsets and times only grow, from the first byte on, whoever pumps."""
    with station() as at:
        for _ in range(20):
            at.feed(b"line\n" * 100)
            at.drain()
            at.kill()
        at.finish()

    entries = index()
    assert entries[0][0] == 0
    assert len(entries) == 20
    assert entries == sorted(entries)
    assert [offset for offset, _ in entries] == sorted({offset for offset, _ in entries})
    assert entries[-1][0] < 20 * 500


def test_a_clock_that_jumps_begins_an_entry(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a suspend, or set by hand: no byte counts as written before it was."""
    with station() as at:
        for seconds in (1000, 5000, 2000):
            monkeypatch.setattr(pump, "wall_ns", lambda now_s=seconds: now_s * 10**9)
            at.feed(b"line\n")
            at.drain()
        at.finish()

    assert index() == [(0, 1000 * 10**9), (5, 5000 * 10**9), (10, 2000 * 10**9)]


def test_the_time_index_grows_by_time_and_not_by_lines(here: str) -> None:
    """Ten entries a second at most."""
    with station() as at:
        for _ in range(500):
            at.feed(b"line\n")
            at.drain()
        at.finish()

    (_, first_ns), *_, (_, last_ns) = [(0, 0), *index()]
    assert len(index()) <= 2 + (last_ns - first_ns) // 100_000_000
    assert len(index()) < 100


@pytest.mark.parametrize("torn", range(1, INDEX_ENTRY.size))
def test_a_torn_entry_of_the_time_index_is_cut_off(here: str, torn: int) -> None:
    """Of a pump that was killed in a power cut; the entries after it are whole again."""
    with station() as at:
        at.feed(b"a" * 10)
        at.drain()
        with open("out.idx", "ab") as file:
            file.write(b"\xff" * torn)
        at.kill()
        at.feed(b"b" * 10)
        at.finish()

    assert [offset for offset, _ in index()] == [0, 10]


def test_an_index_that_cannot_be_written_costs_only_the_index(here: str) -> None:
    """The log is whole without it."""
    os.mkdir("out.idx")

    with station() as at:
        at.feed(pattern(3000))
        at.finish()

    assert whole() == pattern(3000)


def test_a_disk_that_turned_read_only_is_like_a_full_one(
    here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the empty segment can be taken away; the job prints on."""
    with station() as at:
        assert at.pump.step() is Progress.IDLE
        at.feed(b"x" * 100)
        for call in ("splice", "unlink"):
            monkeypatch.setattr(os, call, refuse_as_read_only)

        assert at.drain() is Progress.IDLE

        assert at.pump.offset == logdir.end_offset(".", "out") == 100


def pipe_size(descriptor: int) -> int:
    """Return the capacity of a pipe."""
    return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)


def may_grow() -> bool:
    """Say whether this user may have a larger pipe now (pipe(7), limits)."""
    read_end, write_end = os.pipe()
    try:
        fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, BUSY_PIPE_BYTES)
    except OSError:
        return False
    finally:
        os.close(read_end)
        os.close(write_end)
    return True


def test_a_pipe_that_was_never_full_stays_small(here: str) -> None:
    """All pipes of a user share one limit."""
    with station() as at:
        for _ in range(100):
            at.feed(b"x" * (PIPE_BYTES // 2))
            at.drain()

        assert pipe_size(at.sink) == PIPE_BYTES


def fill_pipe(at: Station) -> None:
    """Write until the pipe takes no more, and pump."""
    os.write(at.sink, bytes(PIPE_BYTES))
    at.drain()


def test_a_pipe_that_was_full_grows(here: str) -> None:
    """Then a busy job waits less often."""
    with station(ROOMY) as at:
        fill_pipe(at)

        assert pipe_size(at.sink) == (BUSY_PIPE_BYTES if may_grow() else PIPE_BYTES)


def test_a_burst_of_short_lines_is_collected_and_not_lost(here: str) -> None:
    """A little later, all at once."""
    with station() as at:
        for number in range(200):
            os.write(at.sink, b"%d\n" % number)
            if number % 20 == 0:
                at.pump.collect()
                at.pump.step()
        at.finish()

        assert whole() == b"".join(b"%d\n" % number for number in range(200))
