"""Kernel calls that Python lacks, checked against what the kernel itself says elsewhere."""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.system import kernel, prctl
from tests.helpers.wait import read_stat, wait_until
from tests.unit.agentd.system.sandbox import fork, hang, headless, isolated, sleeper

#: Linux 6.15 and later tell the exit status through a pidfd.
KERNEL = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def ended(act: Callable[[], object]) -> int:
    """Return a child that has done this and is not reaped."""
    pid = fork(act)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def die_by(number: int) -> None:
    """Die by this signal, with a core file if it makes one and the limit allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    hang()


def burn(seconds: float) -> None:
    """Use this much CPU time."""
    while time.process_time() < seconds:
        pass


ENDS: dict[str, tuple[Callable[[], object], int | None]] = {
    "0": (lambda: os._exit(0), 0),
    "7": (lambda: os._exit(7), 7 << 8),
    "255": (lambda: os._exit(255), 255 << 8),
    "SIGTERM": (lambda: die_by(signal.SIGTERM), signal.SIGTERM),
    "SIGRTMAX": (lambda: die_by(signal.SIGRTMAX), signal.SIGRTMAX),
    # Whether there is a core file is the machine's business.
    "SIGABRT": (lambda: die_by(signal.SIGABRT), None),
    "SIGSEGV": (lambda: die_by(signal.SIGSEGV), None),
}


def killed_in_its_sleep() -> int:
    """Return a child that was killed and is not reaped."""
    pid = sleeper()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


@isolated
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "plain"])
def test_a_look_tells_the_status_that_wait_will_tell(
    end: tuple[Callable[[], object], int | None],
    *,
    raw: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Code, signal and core flag, on machines whose system call number we do not know too."""
    monkeypatch.chdir(tmp_path)
    if not raw:
        monkeypatch.setattr(kernel, "_waitid_number", None)
    act, expected = end
    pid = ended(act)

    seen = prctl.look_at_exit(pid)

    assert seen is not None
    assert seen.pid == pid
    assert seen.wait_status == os.waitpid(pid, 0)[1]
    assert expected is None or seen.wait_status == expected


@isolated
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "plain"])
def test_a_core_file_is_told(*, raw: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is there exactly when the kernel wrote one."""
    monkeypatch.chdir(tmp_path)
    if not raw:
        monkeypatch.setattr(kernel, "_waitid_number", None)
    pid = ended(lambda: die_by(signal.SIGQUIT))

    seen = prctl.look_at_exit(pid)

    assert seen is not None
    assert os.WCOREDUMP(seen.wait_status) == os.WCOREDUMP(os.waitpid(pid, 0)[1])
    assert not os.listdir(tmp_path) or os.WCOREDUMP(seen.wait_status)


@isolated
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "plain"])
def test_a_look_at_a_living_child_tells_nothing(
    *, raw: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped and continued it lives as well."""
    if not raw:
        monkeypatch.setattr(kernel, "_waitid_number", None)
    pid = sleeper()
    assert prctl.look_at_exit(pid) is None

    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)

    assert prctl.look_at_exit(pid) is None


@isolated
def test_a_look_at_a_child_whose_first_thread_has_ended_tells_nothing() -> None:
    """It has not ended; its status is that of all its threads."""
    pid = headless()
    assert prctl.look_at_exit(pid) is None

    os.kill(pid, signal.SIGTERM)

    seen = wait_until(lambda: prctl.look_at_exit(pid), what="the end")
    assert seen is not None
    assert seen.wait_status == signal.SIGTERM


@isolated
def test_a_look_reaps_nothing() -> None:
    """The zombie is the last witness until the exit record is durable."""
    pid = killed_in_its_sleep()

    assert prctl.look_at_exit(pid) == prctl.look_at_exit(pid)

    stat = read_stat(pid)
    assert stat is not None
    assert stat.state == "Z"
    assert os.waitpid(pid, 0) == (pid, signal.SIGKILL)


@isolated
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "plain"])
def test_only_our_own_children_can_be_looked_at(
    *, raw: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reaped one is none any more, and a stranger never was."""
    if not raw:
        monkeypatch.setattr(kernel, "_waitid_number", None)
    pid = killed_in_its_sleep()
    os.waitpid(pid, 0)

    for other in (pid, os.getppid(), os.getpid()):
        with pytest.raises(ChildProcessError):
            prctl.look_at_exit(other)


@isolated
def test_the_usage_is_that_of_the_child_and_what_it_reaped() -> None:
    """CPU time and memory of a grandchild, although the child did nothing itself."""

    def work() -> None:
        block = bytearray(64 << 20)
        block[::4096] = b"x" * len(block[::4096])
        burn(0.2)

    pid = ended(lambda: os.waitpid(fork(work), 0))

    seen = prctl.look_at_exit(pid)

    assert seen is not None
    assert 0.2 <= seen.usage.cpu_user_s + seen.usage.cpu_system_s < 5
    assert 64 << 20 <= seen.usage.peak_memory_bytes < 2 << 30
    _, _, usage = os.wait4(pid, 0)
    assert (seen.usage.cpu_user_s, seen.usage.cpu_system_s) == pytest.approx(usage[:2])
    assert seen.usage.peak_memory_bytes == usage.ru_maxrss * 1024


@isolated
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_a_new_kernel_tells_the_status_of_one_that_its_parent_reaped(
    end: tuple[Callable[[], object], int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing before it is reaped; an old kernel tells nothing ever."""
    monkeypatch.chdir(tmp_path)
    go_read, go = os.pipe()
    reap_read, reap = os.pipe()
    told_read, told = os.pipe()

    def be_the_parent() -> None:
        pid = fork(lambda: os.read(go_read, 1), end[0])
        os.write(told, b"%d\n" % pid)
        os.read(reap_read, 1)
        os.write(told, b"%d\n" % os.waitpid(pid, 0)[1])

    fork(be_the_parent)
    with os.fdopen(told_read, encoding="ascii") as lines:
        pidfd = os.pidfd_open(int(lines.readline()))
        assert prctl.exit_status_of(pidfd) is None
        os.write(go, b"!")
        os.write(reap, b"!")
        status = int(lines.readline())

    assert prctl.exit_status_of(pidfd) == (status if KERNEL >= (6, 15) else None)


@isolated
def test_no_status_is_told_of_a_zombie_or_by_what_is_no_pidfd() -> None:
    """Cannot tell is an answer, not an error."""
    pidfd = os.pidfd_open(killed_in_its_sleep())

    assert prctl.exit_status_of(pidfd) is None
    assert prctl.exit_status_of(os.open(os.devnull, os.O_RDONLY)) is None


@isolated
def test_a_subreaper_gets_the_orphans_below_it() -> None:
    """Even one that has left the session; without it they go to whoever is above."""

    def be_the_subreaper() -> None:
        prctl.become_subreaper()
        leave()

    def leave() -> None:
        os.waitpid(fork(part), 0)
        hang()

    def part() -> None:
        os.setsid()
        parent = os.getpid()
        fork(lambda: report(parent))

    def report(parent: int) -> None:
        wait_until(lambda: os.getppid() != parent, what="orphaned")
        os.write(write_end, b"%d\n" % os.getppid())
        hang()

    read_end, write_end = os.pipe()
    with os.fdopen(read_end, encoding="ascii") as lines:
        plain = fork(leave)
        assert int(lines.readline()) == os.getpid() != plain
        subreaper = fork(be_the_subreaper)
        assert int(lines.readline()) == subreaper


def signal_masks() -> dict[str, int]:
    """Return the blocked, ignored and caught signals as bits (proc(5), status).

    Without the two that the C library keeps for its threads (nptl(7)); exec(2) resets those.
    """
    ours = ~sum(1 << (number - 1) for number in (32, 33))
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {name: int(lines[name], 16) & ours for name in ("SigBlk", "SigIgn", "SigCgt")}


@isolated
def test_signals_are_reset_to_what_a_login_shell_hands_on() -> None:
    """None ignored, none blocked, none caught; Python itself ignores two."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGRTMIN, signal.SIGRTMAX):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    assert all(signal_masks().values())

    prctl.reset_signals()

    assert signal_masks() == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


@isolated
def test_the_name_that_ps_shows_is_set() -> None:
    """Fifteen bytes of it."""
    prctl.set_name("agentd-shim and more")

    assert Path("/proc/self/comm").read_text(encoding="ascii") == "agentd-shim and\n"
