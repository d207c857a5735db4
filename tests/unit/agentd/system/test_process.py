"""Who a process is, who is below it, and a signal that hits only it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from agentd.core.job import ProcessId
from agentd.system import proc, process
from agentd.system.prctl import set_name
from tests.helpers.wait import read_stat, wait_until
from tests.unit.agentd.system.sandbox import fork, hang, headless, isolated, sleeper


def known(pid: int) -> ProcessId:
    """Return the identity of a process that exists."""
    found = process.identify(pid)
    assert found is not None
    return found


def state_of(pid: int) -> str:
    """Return the letter that /proc shows."""
    stat = read_stat(pid)
    assert stat is not None
    return stat.state


def zombie() -> int:
    """Return a child that has ended and is not reaped."""
    pid = fork(lambda: None)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def gone() -> int:
    """Return the pid of a child that was reaped."""
    pid = fork(lambda: None)
    os.waitpid(pid, 0)
    return pid


def named(name: str) -> int:
    """Return a sleeping child with this command name."""

    def be() -> None:
        set_name(name)
        os.write(write_end, b"!")
        hang()

    read_end, write_end = os.pipe()
    pid = fork(be)
    os.read(read_end, 1)
    return pid


@isolated
def test_a_process_is_known_by_pid_and_start() -> None:
    """The same every time, another for another process."""
    first, second = sleeper(), sleeper()

    assert known(first) == known(first)
    assert known(first) != known(second)
    assert known(first).pid == first
    assert known(first).start_ticks > 0


@isolated
@pytest.mark.parametrize("name", ["a) b (", "(x)", ") R 1 1 1", "two  spaces", "a\nb", ")"])
def test_a_name_that_looks_like_the_rest_of_the_line_confuses_nothing(name: str) -> None:
    """The command name stands unquoted in /proc/PID/stat, and anybody may choose it."""
    pid = named(name)
    plain = sleeper()

    assert process.is_running(pid)
    assert process.is_alive(known(pid))
    assert not process.is_stopped(pid)
    assert abs(known(pid).start_ticks - known(plain).start_ticks) < 500


@isolated
def test_only_a_process_that_runs_is_alive() -> None:
    """A zombie exists and is not alive; one that was reaped does not exist."""
    alive, dead, none = sleeper(), zombie(), gone()

    assert process.is_alive(known(alive))
    assert process.is_running(alive)
    assert not process.is_alive(known(dead))
    assert not process.is_running(dead)
    assert process.identify(none) is None
    assert not process.is_running(none)


@isolated
def test_a_process_whose_first_thread_has_ended_is_alive() -> None:
    """It looks like a zombie, and its other threads work on."""
    pid = headless()
    wait_until(lambda: state_of(pid) == "Z", what="the first thread ended")

    assert process.is_running(pid)
    assert process.is_alive(known(pid))
    assert proc.zombie_status(known(pid)) is None

    assert process.send(known(pid), signal.SIGKILL)
    wait_until(lambda: not process.is_running(pid), what="the rest ended")
    assert not process.is_alive(known(pid))


@isolated
@pytest.mark.parametrize("status", [0, 7 << 8, signal.SIGTERM, signal.SIGKILL])
def test_a_zombie_tells_its_status_to_others_than_its_parent(status: int) -> None:
    """Below an init that reaps nobody, it is the only one who knows."""
    pid = fork(lambda: os._exit(status >> 8) if status > 0xFF or not status else hang())
    leader = known(pid)
    if 0 < status <= 0xFF:
        assert proc.zombie_status(leader) is None
        os.kill(pid, status)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert proc.zombie_status(leader) == status

    assert proc.zombie_status(replace(leader, start_ticks=leader.start_ticks - 1)) is None
    assert os.waitpid(pid, 0)[1] == status
    assert proc.zombie_status(leader) is None


@isolated
def test_a_recycled_pid_is_another_process() -> None:
    """Same pid, other start: not the one that was meant."""
    pid = sleeper()
    earlier = replace(known(pid), start_ticks=known(pid).start_ticks - 1)

    assert not process.is_alive(earlier)


@isolated
def test_a_stopped_process_is_told_from_one_that_sleeps() -> None:
    """And is running in the sense that it lives."""
    pid = sleeper()
    assert not process.is_stopped(pid)

    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: process.is_stopped(pid), what="stopped")
    assert process.is_running(pid)

    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not process.is_stopped(pid), what="going on")
    assert not process.is_stopped(gone())


@isolated
def test_children_are_found_zombies_too() -> None:
    """The ones of children are not."""
    parent = fork(sleeper, hang)
    dead = zombie()

    wait_until(lambda: process.children(parent), what="a grandchild")

    assert sorted(process.children(os.getpid())) == sorted([parent, dead])
    assert process.children(gone()) == []


@isolated
def test_children_of_every_thread_are_found() -> None:
    """A child belongs to the thread that forked it (proc(5), children)."""
    forked: list[int] = []
    done = threading.Event()

    def work() -> None:
        forked.append(sleeper())
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    own = sleeper()
    wait_until(lambda: forked, what="the thread's child")

    found = process.children(os.getpid())

    done.set()
    thread.join()
    assert sorted(found) == sorted([own, *forked])


@isolated
def test_children_are_found_however_many_there_are() -> None:
    """The kernel tells some eight hundred at a time."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", PARENT_OF_MANY], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]

        found = process.children(parent.pid)
        parent.kill()

    assert sorted(found) == pids


PARENT_OF_MANY = """
import os, signal
pids = []
for _ in range(1200):
    pids.append(os.fork())
    if not pids[-1]:
        os.close(1)
        signal.pause()
print(*sorted(pids), flush=True)
signal.pause()
"""


def tree() -> dict[str, int]:
    """Grow child, grandchild, a session of its own and a daemon below us; return them by name."""
    read_end, write_end = os.pipe()

    def say(name: str) -> None:
        os.write(write_end, f"{name} {os.getpid()}\n".encode())

    def leave() -> None:
        os.setsid()
        say("session")
        fork(lambda: say("daemon"), hang)

    def grow() -> None:
        fork(lambda: say("grandchild"), hang)
        between = fork(leave)
        os.waitpid(between, 0)
        say("child")
        hang()

    fork(grow)
    found: dict[str, int] = {}
    with os.fdopen(read_end, encoding="ascii") as lines:
        while len(found) < 4:
            name, pid = lines.readline().split()
            found[name] = int(pid)
    os.close(write_end)
    del found["session"]
    return found


@isolated
def test_everything_below_is_found_across_sessions() -> None:
    """What double-forked away hangs below the subreaper; nothing is listed twice."""
    grown = tree()
    wait_until(lambda: os.getpid() == parent_of(grown["daemon"]), what="the daemon adopted")

    found = process.descendants(os.getpid())

    assert sorted(found) == sorted(grown.values())
    assert found.index(grown["child"]) < found.index(grown["grandchild"])
    assert process.descendants(grown["child"]) == [grown["grandchild"]]


def parent_of(pid: int) -> int:
    """Return the parent's pid."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return int(file.read().rpartition(") ")[2].split()[1])


#: Nobody else's, whoever runs the same tests at the same time.
MINE, OTHER = secrets.token_hex(16), secrets.token_hex(16)


def run(environment: dict[str, str]) -> int:
    """Return a program with this environment, as it is after its exec."""

    def execute() -> None:
        os.execve("/bin/sleep", ["sleep", "600"], environment)

    pid = fork(execute)
    wait_until(lambda: has_executed(pid), what="the exec")
    return pid


def has_executed(pid: int) -> bool:
    """Say whether it is sleep(1) by now."""
    with open(f"/proc/{pid}/comm", encoding="ascii") as file:
        return file.read() == "sleep\n"


@isolated
def test_a_member_is_known_by_its_mark() -> None:
    """Anywhere in its environment; a mark of another job is not ours."""
    first = run({"AGENTCTL_JOB_UID": MINE})
    later = run({"PATH": "/bin", "AGENTCTL_JOB_UID": MINE, "Z": ""})
    run({"AGENTCTL_JOB_UID": OTHER})
    run({})

    assert process.find_members(MINE, None) == sorted([first, later])


@isolated
@pytest.mark.parametrize("name", ["X", "NOT_AGENTCTL_JOB_UID", "AGENTCTL_JOB_UID_OF_PARENT"])
def test_a_mark_inside_of_another_variable_is_none(name: str) -> None:
    """It has to be the variable itself."""
    run({name: f"AGENTCTL_JOB_UID={MINE}" if name == "X" else MINE})

    assert process.find_members(MINE, None) == []


@isolated
def test_a_leader_is_a_member_without_a_mark() -> None:
    """A program may change its environment; its identity it cannot change."""
    leader = run({})
    earlier = replace(known(leader), start_ticks=known(leader).start_ticks - 1)

    assert process.find_members(MINE, known(leader)) == [leader]
    assert process.find_members(MINE, earlier) == []


@isolated
def test_who_is_in_a_members_own_session_is_a_member() -> None:
    """Without a mark and without being below it."""
    read_end, write_end = os.pipe()

    def lead() -> None:
        os.setsid()
        between = fork(lambda: fork(execute_unmarked))
        os.waitpid(between, 0)
        os.execve("/bin/sleep", ["sleep", "600"], {"AGENTCTL_JOB_UID": MINE})

    def execute_unmarked() -> None:
        os.write(write_end, str(os.getpid()).encode())
        os.execve("/bin/sleep", ["sleep", "600"], {})

    leader = fork(lead)
    orphan = int(os.read(read_end, 10))
    wait_until(lambda: has_executed(leader) and has_executed(orphan), what="both executed")
    wait_until(lambda: parent_of(orphan) == os.getpid(), what="orphaned")

    assert process.find_members(MINE, None) == sorted([leader, orphan])


@isolated
def test_a_session_that_no_member_leads_makes_no_members() -> None:
    """A marked process in our own session does not make our session the job's."""
    member = run({"AGENTCTL_JOB_UID": MINE})
    sleeper()

    assert process.find_members(MINE, None) == [member]


@isolated
def test_what_descends_from_a_member_is_a_member() -> None:
    """However deep, in whatever session, with whatever environment."""
    read_end, write_end = os.pipe()

    def parent() -> None:
        fork(child)
        os.execve("/bin/sleep", ["sleep", "600"], {"AGENTCTL_JOB_UID": MINE})

    def child() -> None:
        os.setsid()
        os.write(write_end, b"%d\n" % os.getpid())
        fork(lambda: os.write(write_end, b"%d\n" % os.getpid()), hang)
        hang()

    top = fork(parent)
    with os.fdopen(read_end, encoding="ascii") as lines:
        below = [int(lines.readline()) for _ in range(2)]
    wait_until(lambda: has_executed(top), what="the exec")

    assert process.find_members(MINE, None) == sorted([top, *below])


@isolated
def test_the_dead_and_ourselves_are_no_members() -> None:
    """A zombie needs no signal, and who asks would hit itself."""
    pid = run({"AGENTCTL_JOB_UID": MINE})
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert process.find_members(MINE, known(pid)) == []
    assert process.find_members(MINE, known(os.getpid())) == []


@isolated
def test_a_signal_hits_its_process() -> None:
    """And says so."""
    pid = sleeper()

    assert process.send(known(pid), signal.SIGUSR1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGUSR1


@isolated
@pytest.mark.parametrize("offset", [-1, 1])
def test_a_signal_never_hits_another_process_with_the_same_pid(offset: int) -> None:
    """Other start ticks, other process: it is gone, and its successor is left alone."""
    pid = sleeper()
    meant = replace(known(pid), start_ticks=known(pid).start_ticks + offset)

    assert not process.send(meant, signal.SIGKILL)

    assert process.is_running(pid)


@isolated
def test_a_signal_to_one_that_is_gone_is_none() -> None:
    """No error: it happens all the time."""
    assert not process.send(ProcessId(gone(), 1), signal.SIGKILL)


@isolated
def test_a_signal_to_many_skips_those_that_are_gone() -> None:
    """Each of the others gets it."""
    pids = [sleeper(), gone(), sleeper()]

    process.send_all(pids, signal.SIGTERM)

    ended = [os.waitpid(pid, 0)[1] for pid in (pids[0], pids[2])]
    assert ended == [signal.SIGTERM, signal.SIGTERM]


LOOKS: dict[str, Callable[[int], object]] = {
    "children": process.children,
    "descendants": process.descendants,
    "identify": process.identify,
    "is_running": process.is_running,
    "is_stopped": process.is_stopped,
    "members": lambda _pid: process.find_members(MINE, None),
}


@isolated
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
def test_a_look_survives_processes_that_come_and_go(look: Callable[[int], object]) -> None:
    """Each ends at any moment between two reads."""

    def churn() -> None:
        while True:
            os.waitpid(fork(lambda: os.waitpid(fork(lambda: None), 0)), 0)

    busy = fork(churn)

    for _ in range(5):
        for pid in [busy, *process.descendants(busy)]:
            look(pid)

    os.kill(busy, signal.SIGKILL)
