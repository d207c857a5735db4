"""What jobs leave in /dev/shm: attributed while they live, reported after, removed on request."""

from __future__ import annotations

import mmap
import os
import signal
import socket
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory

import pytest

from agentd.system.memory.leftovers import SHM, Leftover, attributed, orphaned, remove
from tests.unit.agentd.system.memory.rigs import MIB, fresh, holder, touch


@pytest.fixture
def prefix() -> Iterator[str]:
    """Yield what the names of a test begin with; proves that none is left."""
    text = f"agentd-test-{os.getpid()}-"
    yield text
    left = [name for name in os.listdir(SHM) if name.startswith(text)]
    for name in left:
        os.unlink(f"{SHM}/{name}")
    assert not left


def _write(name: str, size_bytes: int = MIB) -> int:
    descriptor = os.open(f"{SHM}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.write(descriptor, bytes(size_bytes))
    return descriptor


def _map(name: str) -> mmap.mmap:
    descriptor = _write(name)
    mapped = mmap.mmap(descriptor, MIB)
    os.close(descriptor)
    touch(mapped, MIB)
    return mapped


@fresh
def test_files_open_or_mapped_are_attributed_and_left_over_after_a_kill(prefix: str) -> None:
    """The names stay, and the memory."""
    opened, mapped, foreign = prefix + "open", prefix + "sem.map (deleted)", prefix + "other"
    os.close(_write(foreign))
    pid = holder(lambda: _write(opened), lambda: _map(mapped))
    names = attributed([pid, os.getpid()])
    assert names == {opened, mapped}
    assert orphaned(names) == ()
    assert remove(names) == ()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    left = (Leftover(opened, MIB), Leftover(mapped, MIB))
    assert orphaned(names) == left
    assert remove(names) == left
    assert orphaned(names) == ()
    assert os.path.exists(f"{SHM}/{foreign}")
    os.unlink(f"{SHM}/{foreign}")


@fresh
def test_what_a_library_shares_is_attributed(prefix: str) -> None:
    """multiprocessing.shared_memory, as many programs use it."""

    def share() -> object:
        memory = shared_memory.SharedMemory(prefix + "block", create=True, size=MIB)
        resource_tracker.unregister("/" + memory.name, "shared_memory")
        assert memory.buf is not None
        memory.buf[:] = b"x" * MIB
        return memory

    pid = holder(share)
    assert attributed([pid]) == {prefix + "block"}
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert remove([prefix + "block"]) == (Leftover(prefix + "block", MIB),)


@fresh
def test_a_deleted_file_is_nobodys_leftover(prefix: str) -> None:
    """It goes with the last process."""
    descriptor = _write(prefix + "gone")
    os.unlink(f"{SHM}/{prefix}gone")
    assert attributed([os.getpid()]) == frozenset()
    os.close(descriptor)


@pytest.mark.root
@fresh
def test_only_regular_files_of_ours_are_ever_removed(prefix: str) -> None:
    """Never through a link, never a directory or a socket, never another user's file."""
    names = [prefix + name for name in ("link", "directory", "socket", "theirs")]
    link, directory, sock, theirs = (f"{SHM}/{name}" for name in names)
    os.symlink("/etc/hostname", link)
    os.mkdir(directory)
    server = socket.socket(socket.AF_UNIX)
    server.bind(sock)
    server.close()
    os.close(_write(prefix + "theirs"))
    os.chown(theirs, 65534, 65534)
    try:
        assert orphaned(names) == ()
        assert remove([*names, prefix + "none", "../../etc/hostname", "", "."]) == ()
        assert all(os.path.lexists(path) for path in (link, directory, sock, theirs))
    finally:
        for path in (link, sock, theirs):
            os.unlink(path)
        os.rmdir(directory)


def test_without_any_place_for_shared_memory_there_is_nothing(tmp_path: object) -> None:
    """And no error; nor with processes that are gone."""
    nowhere = f"{tmp_path}/none"
    assert attributed([1, 999_999_999], shm=nowhere) == frozenset()
    assert orphaned(["x"], shm=nowhere, proc=nowhere) == ()
    assert remove(["x"], shm=nowhere) == ()
