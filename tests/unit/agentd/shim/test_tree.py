"""All processes of a job: found, signalled, frozen and killed, wherever they went."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable

import pytest

from agentd.core.job import ProcessId
from agentd.shim import tree as trees
from agentd.shim.tree import FoundTree, OwnTree, Tree
from agentd.system import process
from tests.helpers.wait import holds_for, wait_gone, wait_until
from tests.unit.agentd.system.sandbox import fork, hang, headless, isolated, sleeper

#: Nobody else's, whoever runs the same tests at the same time.
UID = secrets.token_hex(16)


class Job:
    """A leader, a child in its group, one in a session of its own and a daemon.

    Each says its pid, then whenever a SIGRTMIN arrives: real-time signals are queued, so that
    two of them are not taken for one.
    """

    def __init__(self) -> None:
        """Start them."""
        read_end, self._write = os.pipe()
        self._lines = os.fdopen(read_end, encoding="ascii")
        self.leader = fork(self._lead)
        lines = [self.next_line().split() for _ in range(4)]
        self.pids = {name: int(pid) for name, pid in lines}

    def next_line(self) -> str:
        """Return what one of them says next."""
        return self._lines.readline().rstrip()

    def _lead(self) -> None:
        os.setsid()
        fork(lambda: self._be("child"))
        fork(os.setsid, lambda: self._be("session"))
        os.waitpid(fork(self._part), 0)
        self._be("leader")

    def _part(self) -> None:
        os.setsid()
        fork(lambda: self._be("daemon"))

    def _be(self, name: str) -> None:
        signal.signal(signal.SIGRTMIN, lambda *_: self._say(f"{name} hit"))
        self._say(f"{name} {os.getpid()}")
        hang()

    def _say(self, words: str) -> None:
        os.write(self._write, f"{words}\n".encode())


def known(pid: int) -> ProcessId:
    """Return the identity of a process that exists."""
    found = process.identify(pid)
    assert found is not None
    return found


@isolated
def test_everything_below_the_shim_is_the_job() -> None:
    """Whatever it did to get away; the dead do not count."""
    job = Job()
    tree = OwnTree(job.leader)
    assert sorted(tree.members()) == sorted(job.pids.values())

    os.kill(job.leader, signal.SIGKILL)

    wait_until(lambda: job.leader not in tree.members(), what="the leader dead")
    assert sorted(tree.members()) == sorted(set(job.pids.values()) - {job.leader})


@isolated
def test_a_signal_to_the_job_hits_each_process_once() -> None:
    """Those that left the group as well as those in it, which are hit at one stroke."""
    job = Job()
    tree = OwnTree(job.leader)

    tree.send(signal.SIGRTMIN)

    assert {job.next_line() for _ in range(4)} == {f"{name} hit" for name in job.pids}
    tree.send_to_group(signal.SIGRTMIN)
    assert {job.next_line() for _ in range(2)} == {"leader hit", "child hit"}


@isolated
def test_a_signal_to_the_group_hits_the_group_alone() -> None:
    """As Ctrl-C on a terminal would."""
    job = Job()

    OwnTree(job.leader).send_to_group(signal.SIGKILL)

    wait_gone({job.pids["leader"], job.pids["child"]})
    assert process.is_running(job.pids["session"])
    assert process.is_running(job.pids["daemon"])


@isolated
def test_the_group_of_a_dead_leader_is_still_hit() -> None:
    """It is unreaped, so nobody else can have its pid."""
    job = Job()
    os.kill(job.leader, signal.SIGKILL)
    os.waitid(os.P_PID, job.leader, os.WEXITED | os.WNOWAIT)

    OwnTree(job.leader).send_to_group(signal.SIGKILL)

    wait_gone({job.pids["child"]})


@isolated
def test_a_leader_without_a_group_of_its_own_is_hit_alone() -> None:
    """It was forked a moment ago and has not made its session."""
    leader, other = sleeper(), sleeper()

    OwnTree(leader).send_to_group(signal.SIGKILL)

    assert os.waitpid(leader, 0)[1] == signal.SIGKILL
    assert process.is_running(other)


@isolated
def test_a_signal_to_a_job_of_which_only_the_zombie_is_left_does_no_harm() -> None:
    """Its record is being written."""
    leader = fork(os.setsid)
    os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
    tree = OwnTree(leader)

    tree.send(signal.SIGTERM)

    assert tree.members() == []


@isolated
def test_a_tree_is_empty_once_nobody_but_the_leaders_zombie_is_left() -> None:
    """Not while anybody lives, wherever he is; the dead are reaped, the leader is not."""
    job = Job()
    tree = OwnTree(job.leader)

    for name in ("leader", "session", "child", "daemon"):
        assert not tree.is_empty()
        os.kill(job.pids[name], signal.SIGKILL)
        wait_gone({job.pids[name]})

    wait_until(tree.is_empty, what="the tree empty")
    assert process.children(os.getpid()) == [job.leader]
    assert os.waitpid(job.leader, 0)[1] == signal.SIGKILL


@isolated
def test_a_tree_whose_leader_has_lost_its_first_thread_is_not_empty() -> None:
    """The others run on, and are ended like any process."""
    leader = headless()
    tree = OwnTree(leader)
    assert (tree.is_empty(), tree.members()) == (False, [leader])

    trees.kill(tree)

    wait_until(tree.is_empty, what="the tree empty")


@isolated
def test_a_tree_that_forks_and_ends_all_the_time_is_never_empty() -> None:
    """Although no look may find its one process."""
    leader = fork(relay)
    tree = OwnTree(leader)
    wait_until(lambda: not process.is_running(leader), what="the first of them gone")

    assert not any(tree.is_empty() for _ in range(200))

    wait_until(lambda: is_killed(tree), what="the kill")


def is_killed(tree: Tree) -> bool:
    """Kill the tree and say whether nothing is left."""
    trees.kill(tree)
    return tree.is_empty()


def relay() -> None:
    """Fork a successor and exit, on and on: never the same process twice."""
    os.setsid()
    while os.fork() == 0:
        os.setsid()
    os._exit(0)


def brood() -> None:
    """Fork children that fork as well, each in a session of its own, two hundred in all."""
    tokens, bank = os.pipe()
    os.write(bank, bytes(200))
    os.close(bank)
    while os.read(tokens, 1):
        if os.fork() == 0:
            os.setsid()
    hang()


FORKERS = pytest.mark.parametrize("forker", [relay, brood])


@FORKERS
@isolated
def test_what_forks_without_end_is_frozen(forker: Callable[[], None]) -> None:
    """Everybody is stopped and nobody new appears; with SIGCONT all goes on."""
    leader = fork(forker)
    tree = OwnTree(leader)
    wait_until(lambda: set(tree.members()) - {leader}, what="a fork")

    wait_until(lambda: is_frozen(tree), what="the freeze")

    members = tree.members()
    assert members
    holds_for(lambda: tree.members() == members, seconds=0.1, what="the same processes")
    tree.send(signal.SIGCONT)
    wait_until(lambda: not all(map(process.is_stopped, tree.members())), what="going on")


def is_frozen(tree: Tree) -> bool:
    """Freeze the tree and say whether it is."""
    trees.freeze(tree)
    members = tree.members()
    return bool(members) and all(map(process.is_stopped, members))


@FORKERS
@isolated
def test_what_forks_without_end_is_killed(forker: Callable[[], None]) -> None:
    """Nothing is left, as often as it is tried, within a few rounds."""
    leader = fork(forker)
    tree = OwnTree(leader)
    wait_until(lambda: set(tree.members()) - {leader}, what="a fork")
    rounds = 0

    def is_dead() -> bool:
        nonlocal rounds
        rounds += 1
        return is_killed(tree)

    wait_until(is_dead, what="the kill")

    assert rounds <= 10
    holds_for(tree.is_empty, seconds=0.1, what="nothing left")


@isolated
def test_a_quiet_job_is_frozen_and_killed_at_the_first_try() -> None:
    """Wherever its processes went."""
    job = Job()
    tree = OwnTree(job.leader)

    trees.freeze(tree)
    wait_until(lambda: all(map(process.is_stopped, job.pids.values())), what="the freeze")
    trees.kill(tree)

    wait_gone(set(job.pids.values()))


def marked(*, leads: bool = True) -> int:
    """Return a process that carries the job's mark."""

    def execute() -> None:
        if leads:
            os.setsid()
        os.execve("/bin/sleep", ["sleep", "600"], {"AGENTCTL_JOB_UID": UID})

    pid = fork(execute)
    wait_until(lambda: process.find_members(UID, None).count(pid), what="the exec")
    return pid


@isolated
def test_a_job_whose_shim_was_killed_is_found_by_its_mark() -> None:
    """Its leader even without it; each is hit by its identity, a stranger is not."""
    leader, other, stranger = sleeper(), marked(), sleeper()
    tree = FoundTree(UID, known(leader))
    assert sorted(tree.members()) == sorted([leader, other])

    tree.send(signal.SIGKILL)

    # A fork of the tests may have threads (gRPC's), and they end after the first one's end is seen.
    wait_until(lambda: tree.members() == [], what="the end of both")
    assert process.is_running(stranger)


@isolated
def test_the_group_of_a_found_job_is_its_leaders() -> None:
    """Without a leader there is no group to hit."""
    leader, other = marked(), marked()

    FoundTree(UID, None).send_to_group(signal.SIGKILL)
    assert sorted(FoundTree(UID, None).members()) == sorted([leader, other])
    FoundTree(UID, known(leader)).send_to_group(signal.SIGKILL)

    wait_gone({leader})
    assert FoundTree(UID, known(leader)).members() == [other]


@isolated
def test_a_found_job_is_frozen_and_killed() -> None:
    """By the same rules."""
    leader, other = marked(), marked()
    tree = FoundTree(UID, known(leader))

    trees.freeze(tree)
    wait_until(lambda: process.is_stopped(leader) and process.is_stopped(other), what="the freeze")
    trees.kill(tree)

    wait_gone({leader, other})
