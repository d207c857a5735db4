"""The hogs take what they say, stop where they must, and can be read after their death."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.hogs import (
    CHUNK_BYTES,
    Progress,
    ProgressFile,
    hog,
    progress_file,
    python_cow,
    python_hog,
)
from tests.helpers.processes import arguments
from tests.helpers.wait import holds_for, is_alive, read_stat, wait_until

MIB = 1 << 20
CAP = 24 * MIB


@pytest.fixture(name="progress")
def _progress() -> Iterator[ProgressFile]:
    with progress_file() as file:
        yield file


@contextmanager
def _running(argv: tuple[str, ...], progress: ProgressFile) -> Iterator[subprocess.Popen[bytes]]:
    """Run a hog; afterwards none of its processes is left."""
    with subprocess.Popen(argv, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)
            wait_until(lambda: not _kill_all(progress), what="no process of the hog is left")


def _kill_all(progress: ProgressFile) -> list[int]:
    """Kill every process that was told of this file or took memory; return those there were.

    Both are needed: one that has just been forked has noted nothing yet, and one whose first
    thread is gone shows no arguments.
    """
    named = [pid for pid in progress.read().pids if read_stat(pid) is not None]
    named += [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and progress.path.encode() in arguments(int(name))
    ]
    for pid in named:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return named


def _full(progress: ProgressFile, probe: Callable[[Progress], object] = bool) -> Progress:
    wait_until(
        lambda: progress.read().full_ns and probe(progress.read()), deadline_s=30, what="it is full"
    )
    return progress.read()


def _field(pid: int, file: str, name: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def test_a_hog_takes_its_cap_and_no_more(progress: ProgressFile) -> None:
    """What it notes is what the kernel counts, and it stays there."""
    with _running(hog("anon", progress, CAP + 1000), progress) as process:
        seen = _full(progress)
        assert seen.taken_bytes == CAP
        assert 0 <= _field(process.pid, "smaps_rollup", "Anonymous") - CAP < MIB
        holds_for(lambda: progress.read().taken_bytes == CAP, seconds=0.1, what="the cap")


def test_threads_share_one_cap(progress: ProgressFile) -> None:
    """Eight threads take together what one would."""
    with _running(hog("anon", progress, CAP, threads=8), progress):
        seen = _full(progress, lambda p: len(p.threads) == 8 and p.taken_bytes == CAP)
        assert (len(seen.threads), len(seen.pids), seen.taken_bytes) == (8, 1, CAP)


def test_a_bomb_is_many_processes_and_one_cap(progress: ProgressFile) -> None:
    """Children of children, each eating, as many as were allowed."""
    rate = MIB
    with _running(hog("bomb", progress, CAP, processes=6, rate=rate), progress) as process:
        wait_until(lambda: len(progress.read().pids) == 6, what="six processes")
        pids = progress.read().pids
        stats = [read_stat(pid) for pid in pids - {process.pid}]
        assert any(stat is not None and stat.parent != process.pid for stat in stats)
        holds_for(lambda: len(progress.read().threads) == 6, seconds=0.3, what="no seventh")


@pytest.mark.parametrize("mode", ["memfd", "shared", "unlinked"])
def test_shared_memory_is_no_files_page(progress: ProgressFile, mode: str) -> None:
    """A memfd, a file in memory and one without a name are counted as shared memory."""
    path = f"{progress.path}-file"
    options: dict[str, int | str] = {} if mode == "memfd" else {"file": path}
    if mode == "unlinked":
        options["unlink"] = 1
    kind = "memfd" if mode == "memfd" else "shared"
    try:
        with _running(hog(kind, progress, CAP, **options), progress) as process:
            assert _full(progress).taken_bytes == CAP
            assert CAP <= _field(process.pid, "status", "RssShmem") < CAP + MIB
            assert os.path.exists(path) is (mode == "shared")
    finally:
        Path(path).unlink(missing_ok=True)


def test_a_mapped_file_takes_no_anonymous_memory(progress: ProgressFile, tmp_path: Path) -> None:
    """All of the file is resident, and it belongs to the page cache."""
    (tmp_path / "weights").write_bytes(b"x" * CAP)
    argv = hog("mapped", progress, CAP, file=str(tmp_path / "weights"))
    with _running(argv, progress) as process:
        wait_until(lambda: sum(s.size_bytes for s in progress.read().threads) == CAP)
        assert _field(process.pid, "status", "RssFile") >= CAP
        assert _field(process.pid, "status", "RssAnon") < MIB


@pytest.mark.parametrize("program", ["c", "python"])
def test_a_copy_is_made_only_when_it_is_written_to(progress: ProgressFile, program: str) -> None:
    """Half before the fork, the other half by the child that dirties what it inherited."""
    argv = hog("cow", progress, CAP) if program == "c" else python_cow(progress, CAP)
    with _running(argv, progress):
        wait_until(
            lambda: (
                len(s := progress.read().threads) == 2 and s[1].size_bytes >= s[0].size_bytes * 0.95
            ),
            what="the child has a copy",
        )
        parent, child = progress.read().threads
        assert _field(child.pid, "smaps_rollup", "Private_Dirty") > 0.8 * CAP / 2
        assert parent.pid != child.pid


def test_sharers_read_what_they_do_not_copy(progress: ProgressFile) -> None:
    """Their resident sets add up to far more than there is."""
    with _running(hog("share", progress, CAP, processes=4), progress):
        wait_until(
            lambda: (
                len(seen := progress.read().threads) == 5
                and all(thread.size_bytes >= CAP for thread in seen)
            ),
            what="each has read all of it",
        )
        seen = progress.read()
        assert seen.taken_bytes == CAP
        assert sum(_field(pid, "status", "VmRSS") for pid in seen.pids) > 5 * CAP
        assert sum(_field(pid, "smaps_rollup", "Pss") for pid in seen.pids) < 1.2 * CAP


def test_a_storm_forks_and_executes_from_a_large_parent(progress: ProgressFile) -> None:
    """As many children as asked for, one after the other, then it ends if told to."""
    with _running(hog("storm", progress, CAP, count=20, exit=1), progress) as process:
        assert process.wait(30) == 0
        assert (progress.read().rounds, progress.read().taken_bytes) == (20, CAP)


def test_a_zombie_leads_while_another_thread_eats(progress: ProgressFile) -> None:
    """What ps shows is dead, and memory grows."""
    with _running(hog("zombie", progress, CAP), progress) as process:
        assert _full(progress).taken_bytes == CAP
        stat = read_stat(process.pid)
        assert stat is not None
        assert stat.state == "Z"
        assert process.poll() is None


def test_an_escaped_hog_left_session_and_parent(progress: ProgressFile) -> None:
    """Setsid and double fork: the leader lives on, another eats."""
    with _running(hog("anon", progress, CAP, escape=1), progress) as process:
        (pid,) = _full(progress).pids
        stat = read_stat(pid)
        assert stat is not None
        assert process.pid not in {pid, stat.parent}
        assert os.getsid(pid) != os.getsid(process.pid)


def test_a_hog_that_ignores_term_goes_on(progress: ProgressFile) -> None:
    """TERM changes nothing, KILL does, and what it noted outlives it."""
    argv = hog("anon", progress, CAP, ignore_term=1, rate=100 * MIB)
    with _running(argv, progress) as process:
        wait_until(lambda: progress.read().taken_bytes, what="it eats")
        process.terminate()
        _full(progress)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert progress.read().taken_bytes == CAP


def test_a_stopped_hogs_progress_stands_still(progress: ProgressFile) -> None:
    """Its last sign of life can be read while it is stopped, on this machine's own clock."""
    began_ns = time.monotonic_ns()
    argv = hog("anon", progress, 1 << 30, rate=16 * MIB)
    with _running(argv, progress) as process:
        wait_until(lambda: progress.read().taken_bytes > MIB, what="it eats")
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: (s := read_stat(process.pid)) and s.state == "T", what="it is stopped")
        seen = progress.read()
        holds_for(lambda: progress.read() == seen, seconds=0.1, what="nothing is noted")
        assert began_ns < seen.last_ns < time.monotonic_ns()
        assert is_alive(process.pid)


def test_a_hog_keeps_its_rate(progress: ProgressFile) -> None:
    """It is never faster than asked for."""
    with _running(hog("anon", progress, CAP, rate=64 * MIB), progress):
        seen = _full(progress)
        assert seen.rate_bytes_per_s < 64 * MIB * CAP / (CAP - CHUNK_BYTES)


def test_a_hog_notes_when_the_machine_falls_below_a_mark(progress: ProgressFile) -> None:
    """A mark above what is available is crossed at once, one far below never."""
    with _running(hog("anon", progress, CAP, mark=1 << 50), progress):
        seen = _full(progress)
        assert seen.crossed_bytes == CHUNK_BYTES
        assert 0 <= seen.stopped_after_ns <= seen.last_ns - seen.threads[0].began_ns
    assert progress.read().crossed_ns == seen.crossed_ns


def test_a_python_hog_fills_its_heap(progress: ProgressFile) -> None:
    """Small objects up to the cap, not above, noted as they come."""
    with _running(python_hog(progress, CAP), progress) as process:
        seen = _full(progress)
        assert 0.95 * CAP < seen.taken_bytes <= CAP
        assert 0.95 * CAP < _field(process.pid, "status", "RssAnon") < CAP + 16 * MIB
