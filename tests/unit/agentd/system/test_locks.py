"""Locks that die with their holder, between real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.system import locks
from tests.helpers.wait import wait_until
from tests.unit.agentd.system.sandbox import fork, hang, isolated


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Iterator[str]:
    """Yield a file to lock; afterwards nobody may hold it."""
    path = tmp_path / "pid"
    path.touch()
    yield str(path)
    assert locks.is_locked(str(path)) is False


def open_file(path: str) -> int:
    """Return a description of its own."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def hold(path: str) -> int:
    """Return the pid of a child that holds the lock."""

    def take() -> None:
        assert locks.try_lock(open_file(path))
        os.write(write_end, b"!")
        hang()

    read_end, write_end = os.pipe()
    pid = fork(take)
    os.close(write_end)
    assert os.read(read_end, 1) == b"!"
    os.close(read_end)
    return pid


def end(pid: int) -> None:
    """Kill a child and reap it."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_lock_is_had_by_one_description_at_a_time(path: str) -> None:
    """In one process too: two shims share none of their descriptors either."""
    first, second = open_file(path), open_file(path)

    assert locks.try_lock(first)
    assert not locks.try_lock(second)
    os.close(first)
    assert locks.try_lock(second)
    os.close(second)


def test_the_holder_may_take_it_again(path: str) -> None:
    """It has it already."""
    descriptor = open_file(path)

    assert locks.try_lock(descriptor)
    assert locks.try_lock(descriptor)
    os.close(descriptor)


def test_a_look_tells_free_from_held(path: str) -> None:
    """Held by ourselves, it is held."""
    assert locks.is_locked(path) is False
    descriptor = open_file(path)
    locks.try_lock(descriptor)

    assert locks.is_locked(path) is True

    os.close(descriptor)
    assert locks.is_locked(path) is False


def test_a_look_does_not_let_go_of_our_own_lock(path: str) -> None:
    """Unlike with POSIX locks, closing another descriptor of the file changes nothing."""
    descriptor, other = open_file(path), open_file(path)
    locks.try_lock(descriptor)

    for _ in range(3):
        locks.is_locked(path)
    os.close(other)

    assert locks.is_locked(path) is True
    os.close(descriptor)


@isolated
def test_a_look_sees_the_lock_of_another_process(path: str) -> None:
    """And sees it go with a process that is killed."""
    holder = hold(path)

    assert locks.is_locked(path) is True
    assert not locks.try_lock(open_file(path))

    end(holder)
    assert locks.is_locked(path) is False


@isolated
def test_a_look_never_takes_the_lock(path: str) -> None:
    """Looked at all the time by another process, it can always be had at the first try."""

    def look() -> None:
        os.write(write_end, b"!")
        while True:
            locks.is_locked(path)

    read_end, write_end = os.pipe()
    looker = fork(look)
    os.read(read_end, 1)
    for _ in range(500):
        descriptor = open_file(path)
        assert locks.try_lock(descriptor)
        os.close(descriptor)

    end(looker)


def test_no_file_is_no_lock(tmp_path: Path) -> None:
    """What is not there, nobody holds."""
    assert locks.is_locked(f"{tmp_path}/none") is False


def test_a_file_that_cannot_be_opened_is_neither_free_nor_held(tmp_path: Path) -> None:
    """The third answer, never to be taken for free."""
    assert locks.is_locked(str(tmp_path)) is None
    (tmp_path / "loop").symlink_to("loop")
    assert locks.is_locked(f"{tmp_path}/loop") is None
    assert locks.is_locked(f"{tmp_path}/{'x' * 300}") is None


def test_the_last_descriptor_takes_the_lock_with_it(path: str) -> None:
    """A duplicate holds it as well as the first."""
    first = open_file(path)
    locks.try_lock(first)
    second = os.dup(first)

    os.close(first)
    assert locks.is_locked(path) is True
    os.close(second)
    assert locks.is_locked(path) is False


@isolated
def test_a_child_that_inherits_the_descriptor_keeps_the_lock(path: str) -> None:
    """Through its parent's close, until it ends itself."""
    descriptor = open_file(path)
    locks.try_lock(descriptor)
    child = fork(hang)

    os.close(descriptor)

    assert locks.is_locked(path) is True
    assert not locks.try_lock(open_file(path))
    end(child)
    assert locks.is_locked(path) is False


@isolated
def test_the_holder_keeps_the_lock_when_its_child_ends(path: str) -> None:
    """A fork does not share it in the sense that either could lose it for both."""
    descriptor = open_file(path)
    locks.try_lock(descriptor)
    child = fork(lambda: os.close(descriptor))
    os.waitpid(child, 0)

    assert locks.is_locked(path) is True


@isolated
def test_an_executed_program_does_not_hold_the_lock(path: str) -> None:
    """Close-on-exec: no process of a job may keep its shim's lock."""
    descriptor = open_file(path)
    locks.try_lock(descriptor)
    child = fork(lambda: os.execv("/bin/sleep", ["sleep", "600"]))
    os.close(descriptor)

    wait_until(lambda: locks.is_locked(path) is False, what="the lock gone with the exec")

    end(child)


@isolated
def test_a_waiter_gets_the_lock_when_the_holder_is_gone(path: str) -> None:
    """And not before."""
    holder = hold(path)

    def wait() -> None:
        descriptor = open_file(path)
        os.write(write_end, b"?")
        locks.wait_for_lock(descriptor)
        os.write(write_end, b"!")
        hang()

    read_end, write_end = os.pipe()
    waiter = fork(wait)
    assert os.read(read_end, 1) == b"?"
    os.set_blocking(read_end, False)
    with pytest.raises(BlockingIOError):
        os.read(read_end, 1)
    os.set_blocking(read_end, True)

    end(holder)

    assert os.read(read_end, 1) == b"!"
    assert locks.is_locked(path) is True
    end(waiter)
