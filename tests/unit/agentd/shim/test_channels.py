"""The descriptors between a job and whoever minds it."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator

import pytest

from agentd.core.job import OutputKind
from agentd.shim import channels
from agentd.shim.channels import JobEnds, ReadEnds
from tests.helpers.descriptors import held
from tests.unit.agentd.system.sandbox import fork, hang, isolated

Ends = tuple[ReadEnds, JobEnds]


@pytest.fixture(autouse=True)
def _no_leak() -> Iterator[None]:
    """Prove that each test closes what it opened."""
    before = held()
    yield
    assert held() <= before


def close(ends: Ends) -> None:
    """Close both sides."""
    ends[1].close()
    for descriptor in ends[0].named().values():
        os.close(descriptor)


def inodes(ends: ReadEnds) -> tuple[int, int]:
    """Return the names of the pipes, as the pidfile holds them."""
    return channels.pipe_inode(ends.out), channels.pipe_inode(ends.err)


KINDS: dict[OutputKind, set[str]] = {
    OutputKind.MERGED: {"out", "start"},
    OutputKind.SPLIT: {"out", "err", "start"},
    OutputKind.FILES: {"start"},
    OutputKind.TERMINAL: {"out", "start"},
}


@pytest.mark.parametrize(("kind", "names"), KINDS.items(), ids=KINDS.keys())
def test_each_kind_of_output_has_its_channels(kind: OutputKind, names: set[str]) -> None:
    """Ours never block; none of them outlives an exec by itself."""
    ends = channels.open_channels(kind)
    ours = ends[0].named()

    assert ours.keys() == names
    assert all(not os.get_blocking(ours[name]) for name in names - {"start"})
    theirs = {ends[1].stdout, ends[1].stderr, ends[1].terminal, ends[1].start} - {-1}
    assert not any(os.get_inheritable(descriptor) for descriptor in (*ours.values(), *theirs))
    assert all(os.get_blocking(descriptor) for descriptor in theirs)
    close(ends)


def test_merged_output_is_one_pipe() -> None:
    """So the order of what is written stays."""
    ends = channels.open_channels(OutputKind.MERGED)

    os.write(ends[1].stdout, b"one ")
    os.write(ends[1].stderr, b"two")

    assert os.read(ends[0].out, 100) == b"one two"
    close(ends)


def test_split_output_is_two_pipes() -> None:
    """Each to its own log."""
    ends = channels.open_channels(OutputKind.SPLIT)

    os.write(ends[1].stdout, b"one")
    os.write(ends[1].stderr, b"two")

    assert (os.read(ends[0].out, 100), os.read(ends[0].err, 100)) == (b"one", b"two")
    close(ends)


def test_a_terminal_is_one() -> None:
    """Our side is the master."""
    ends = channels.open_channels(OutputKind.TERMINAL)

    os.write(ends[1].terminal, b"line\n")

    assert os.isatty(ends[1].terminal)
    assert os.read(ends[0].out, 100) == b"line\r\n"
    close(ends)


def test_the_jobs_ends_closed_are_the_end_of_ours() -> None:
    """Each is closed once, although stdout and stderr may be one."""
    ours, theirs = channels.open_channels(OutputKind.MERGED)

    theirs.close()

    assert os.read(ours.out, 100) == b""
    close((ours, JobEnds()))


def test_a_pipe_is_named_by_its_inode() -> None:
    """Both ends alike; what is no pipe has none."""
    read_end, write_end = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)

    assert channels.pipe_inode(read_end) == channels.pipe_inode(write_end) != 0
    assert channels.pipe_inode(null) == 0
    assert channels.pipe_inode(-1) == 0
    for descriptor in (read_end, write_end, null):
        os.close(descriptor)


def be_a_job(ends: Ends) -> None:
    """Hold the job's ends as its stdout and stderr, for reading as well, and nothing else."""
    ours, theirs = ends
    # As the leader does: its own descriptor then counts as a reader.
    for target, source in ((1, theirs.stdout), (2, theirs.stderr)):
        os.dup2(os.open(f"/proc/self/fd/{source}", os.O_RDWR), target)
    close((ours, theirs))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def stat_mode(path: str) -> int:
    """Return the mode of what is open there."""
    return os.stat(path).st_mode


@isolated
@pytest.mark.parametrize("kind", [OutputKind.MERGED, OutputKind.SPLIT])
def test_a_job_whose_readers_were_all_killed_writes_on_and_is_found_again(
    kind: OutputKind,
) -> None:
    """No SIGPIPE, no byte lost: what it wrote meanwhile is read by whoever finds the pipes."""
    ends = channels.open_channels(kind)
    ours, theirs = ends
    known = inodes(ours)
    told, tell = os.pipe()
    go, let_go = os.pipe()

    def work() -> None:
        be_a_job(ends)
        os.write(1, b"before ")
        os.write(tell, b"!")
        os.read(go, 1)
        os.write(1, b"alone ")
        os.write(2, b"error ")
        os.write(tell, b"!")
        os.read(go, 1)
        os.write(1, b"found")

    job = fork(work)
    theirs.close()
    os.read(told, 1)
    assert os.read(ours.out, 100) == b"before "
    for descriptor in ours.named().values():
        os.close(descriptor)
    os.write(let_go, b"!")
    assert os.read(told, 1) == b"!", "the job was killed"

    again = channels.find_again([os.getpid(), job, 1 << 22], *known)

    assert stat.S_ISFIFO(stat_mode(f"/proc/self/fd/{again.out}"))
    assert not os.get_blocking(again.out)
    if kind is OutputKind.SPLIT:
        assert os.read(again.out, 100) == b"alone "
        assert os.read(again.err, 100) == b"error "
    else:
        assert os.read(again.out, 100) == b"alone error "
        assert again.err == -1
    os.write(let_go, b"!")
    assert os.waitpid(job, 0)[1] == 0
    assert os.read(again.out, 100) == b"found"
    assert os.read(again.out, 100) == b""
    for descriptor in (again.out, again.err):
        if descriptor >= 0:
            os.close(descriptor)
    for descriptor in (told, tell, go, let_go):
        os.close(descriptor)


@isolated
def test_a_pipe_that_nobody_holds_is_not_found() -> None:
    """Nor is another pipe of the same process."""
    ends = channels.open_channels(OutputKind.SPLIT)
    known = inodes(ends[0])
    close(ends)
    other = os.pipe()
    job = fork(hang)

    assert channels.find_again([job, os.getpid()], *known) == ReadEnds()

    for descriptor in other:
        os.close(descriptor)


@isolated
def test_a_job_without_pipes_has_none_to_be_found() -> None:
    """Its output goes to files or to a terminal, whose inode is not in the pidfile."""
    pipe = os.pipe()
    job = fork(hang)

    assert channels.find_again([job], *inodes(ReadEnds())) == ReadEnds()

    for descriptor in pipe:
        os.close(descriptor)
