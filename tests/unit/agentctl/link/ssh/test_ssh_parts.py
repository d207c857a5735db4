"""Processes, locks and memory of a link, each on its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agentctl.errors import TryAgainError, UnsafeDirectoryError
from agentctl.link.ssh import capped, lock, process, state
from tests.helpers.wait import wait_until


def test_a_process_is_its_pid_and_its_start() -> None:
    """The same number with another start is another process: it is not seen and not killed."""
    with subprocess.Popen(["sleep", "60"]) as child:
        stat = process.look(child.pid)
        assert stat is not None
        assert process.seen(stat.process) is not None
        other = process.Process(child.pid, stat.process.started_ticks + 1)
        assert process.seen(other) is None
        process.kill(other)
        assert child.poll() is None
        assert process.has_argument(child.pid, "60")
        assert not process.has_argument(child.pid, "61")
        process.kill(stat.process)
        assert child.wait(10) == -signal.SIGKILL
    assert process.seen(stat.process) is None


def test_a_frozen_process_is_known_and_can_be_killed() -> None:
    """It answers nobody; SIGKILL reaches it all the same."""
    with subprocess.Popen(["sleep", "60"]) as child:
        child.send_signal(signal.SIGSTOP)
        stat = _stopped(child.pid)
        process.kill(stat.process)
        assert child.wait(10) == -signal.SIGKILL


def _stopped(pid: int) -> process.Stat:
    def stopped() -> process.Stat | None:
        stat = process.look(pid)
        return stat if stat is not None and stat.is_stopped else None

    stat = wait_until(stopped, what="it stands still")
    assert stat is not None
    return stat


def test_threads_hold_a_lock_one_after_the_other(tmp_path: Path) -> None:
    """As processes do: each opens the file anew."""
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with lock.held(f"{tmp_path}/lock", 10, "busy"):
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1] * 8


def test_a_lock_that_stays_held_is_given_up(tmp_path: Path) -> None:
    """After the patience, with the words of the caller."""
    began_s = time.monotonic()
    with (
        lock.held(f"{tmp_path}/lock", 1, "busy"),
        pytest.raises(TryAgainError, match="so busy"),
        lock.held(f"{tmp_path}/lock", 0.1, "so busy"),
    ):
        pass
    assert 0.1 <= time.monotonic() - began_s < 1


def test_who_holds_a_lock_and_is_stopped_is_named(tmp_path: Path) -> None:
    """No patience is enough for a process that Ctrl-Z has stopped; one that runs is not named."""
    program = (
        "import os, signal, sys\n"
        "from agentctl.link.ssh import lock\n"
        "with lock.held(sys.argv[1], 1, 'busy'):\n"
        "    print(flush=True)\n"
        "    sys.stdin.read()\n"
    )
    path = f"{tmp_path}/lock"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program, path], stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(TryAgainError, match=r"^so busy$"), lock.held(path, 0.1, "so busy"):
            pass
        child.send_signal(signal.SIGSTOP)
        _stopped(child.pid)
        told = rf"^so busy \(pid {child.pid} is stopped: resume or kill it\)$"
        with pytest.raises(TryAgainError, match=told), lock.held(path, 0.1, "so busy"):
            pass
        child.kill()
    with lock.held(path, 1, "busy"):
        pass


def test_a_lock_is_no_symlink(tmp_path: Path) -> None:
    """Planted, it would make a file of ours elsewhere."""
    (tmp_path / "lock").symlink_to(tmp_path / "victim")

    with pytest.raises(UnsafeDirectoryError), lock.held(f"{tmp_path}/lock", 1, "busy"):
        pass
    assert not (tmp_path / "victim").exists()


def _communicate(script: str, data: bytes = b"", timeout_s: float = 10) -> tuple[bytes, bytes]:
    pipe = subprocess.PIPE
    with subprocess.Popen(["sh", "-c", script], stdin=pipe, stdout=pipe, stderr=pipe) as child:
        try:
            return capped.communicate(child, data, timeout_s, 2_000_000)
        finally:
            child.kill()


def test_what_a_child_says_is_kept_up_to_a_bound() -> None:
    """All of it, both ways at once; more than the bound, or than the time, is an error."""
    data = os.urandom(1_000_000)

    assert _communicate("cat; echo complaint >&2", data) == (data, b"complaint\n")
    # One that reads nothing says why; that is what counts.
    assert _communicate("echo no; exit 1", data) == (b"no\n", b"")
    with pytest.raises(capped.TooMuchError):
        _communicate("exec yes")
    with pytest.raises(capped.TooMuchError):
        _communicate("exec yes >&2")
    with pytest.raises(subprocess.TimeoutExpired):
        _communicate("exec sleep 60", timeout_s=0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        _communicate("exec >&- 2>&-; exec sleep 60", timeout_s=0.1)


def test_memory_is_what_was_stored_and_ours_alone(tmp_path: Path) -> None:
    """Replaced as a whole, mode 0600, whatever stood in the way of the temporary file."""
    path = f"{tmp_path}/x.route"
    (tmp_path / f"x.route.{os.getpid()}").symlink_to(tmp_path / "victim")
    state.store(path, {"a": 1})
    state.store(path, {"b": 2})

    assert state.load(path) == {"b": 2}
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["x.route"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 60000])
def test_memory_that_cannot_be_understood_is_none(tmp_path: Path, content: bytes) -> None:
    """A link without memory only takes longer."""
    path = tmp_path / "x.route"
    path.write_bytes(content)

    assert state.load(str(path)) == {}
    assert state.load(f"{tmp_path}/none") == {}


def test_a_key_is_of_all_its_words() -> None:
    """Another split of the same letters is another key; it is short and plain."""
    assert state.key("ab", "c") != state.key("a", "bc")
    assert len(state.key("x")) == 16
    assert state.key("\udcff").isalnum()
