"""The stop ladder: TERM, grace, KILL until nothing is left."""

from __future__ import annotations

import os
import signal
from itertools import pairwise

from agentd.shim.ladder import Ladder
from agentd.shim.tree import OwnTree
from agentd.system import process
from agentd.system.clock import boot_ns
from tests.helpers.wait import wait_until
from tests.unit.agentd.system.sandbox import fork, hang, isolated

HOUR_NS = 3600 * 10**9


def leader(on_term: str) -> int:
    """Return a leader that on SIGTERM exits with 5 or ignores it."""
    read_end, write_end = os.pipe()

    def lead() -> None:
        os.setsid()
        handler = signal.SIG_IGN if on_term == "ignores" else lambda *_: os._exit(5)
        signal.signal(signal.SIGTERM, handler)
        os.write(write_end, b"!")
        hang()

    pid = fork(lead)
    os.read(read_end, 1)
    return pid


def status(pid: int) -> int:
    """Return how a child ended."""
    return os.waitpid(pid, 0)[1]


@isolated
def test_a_stop_begins_with_term() -> None:
    """A job that heeds it ends as it likes."""
    pid = leader("exits")

    ladder = Ladder(OwnTree(pid), boot_ns() + HOUR_NS)

    assert status(pid) == 5 << 8
    assert not ladder.killing


@isolated
def test_a_paused_job_gets_its_term_too() -> None:
    """It goes on, or it would not see it before the grace is over."""
    pid = leader("exits")
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: process.is_stopped(pid))

    Ladder(OwnTree(pid), boot_ns() + HOUR_NS)

    assert status(pid) == 5 << 8


@isolated
def test_nothing_is_killed_before_the_grace_is_over() -> None:
    """However often the ladder is looked at."""
    pid = leader("ignores")
    kill_at_ns = boot_ns() + HOUR_NS
    ladder = Ladder(OwnTree(pid), kill_at_ns)

    for _ in range(10):
        ladder.tick()

    assert process.is_running(pid)
    assert (ladder.killing, ladder.wake_at_ns) == (False, kill_at_ns)


@isolated
def test_what_ignores_term_is_killed_when_the_grace_is_over() -> None:
    """At the first look after that, and not before."""
    pid = leader("ignores")
    ladder = Ladder(OwnTree(pid), boot_ns() + 50_000_000)

    def tick() -> bool:
        ladder.tick()
        return ladder.killing

    wait_until(tick, what="the end of the grace")

    assert status(pid) == signal.SIGKILL


@isolated
def test_without_a_grace_there_is_no_term() -> None:
    """The job that would exit on it is killed."""
    pid = leader("exits")

    ladder = Ladder(OwnTree(pid), boot_ns())
    assert process.is_running(pid)
    ladder.tick()

    assert status(pid) == signal.SIGKILL


class Immortal:
    """A tree that no signal ends: its processes hang in the kernel (state D)."""

    def __init__(self) -> None:
        """Count the kills."""
        self.kills = 0

    def members(self) -> list[int]:
        """Return one process that is none of ours."""
        return [0]

    def is_empty(self) -> bool:
        """It never ends."""
        return False

    def send(self, signal_number: int) -> None:
        """Count it."""
        self.kills += signal_number == signal.SIGKILL

    def send_to_group(self, signal_number: int) -> None:
        """Do nothing."""


def test_a_second_stop_brings_the_kill_forward() -> None:
    """Never back: who asked for less grace gets it."""
    start_ns = boot_ns()
    ladder = Ladder(Immortal(), start_ns + 2 * HOUR_NS)

    ladder.hurry(start_ns + 3 * HOUR_NS)
    assert ladder.wake_at_ns == start_ns + 2 * HOUR_NS
    ladder.hurry(start_ns + HOUR_NS)
    assert ladder.wake_at_ns == start_ns + HOUR_NS
    ladder.hurry(start_ns + 2 * HOUR_NS)
    assert ladder.wake_at_ns == start_ns + HOUR_NS
    ladder.hurry(start_ns)
    ladder.tick()
    assert ladder.killing


def test_once_it_kills_it_is_not_hurried() -> None:
    """The rounds have a pace of their own."""
    ladder = Ladder(Immortal(), 0)
    ladder.tick()
    next_ns = ladder.wake_at_ns

    ladder.hurry(0)

    assert ladder.wake_at_ns == next_ns > boot_ns() - HOUR_NS


def test_rounds_of_kills_come_ever_less_often() -> None:
    """A process that cannot die costs little; one that forks is hit again soon."""
    tree = Immortal()
    ladder = Ladder(tree, 0)
    pauses: list[int] = []

    def rounds() -> int:
        before = tree.kills
        now_ns = boot_ns()
        ladder.tick()
        if tree.kills > before:
            pauses.append(ladder.wake_at_ns - now_ns)
        return tree.kills == 6

    wait_until(rounds, what="six rounds")

    assert pauses[0] < 50_000_000
    assert all(later > 1.5 * earlier for earlier, later in pairwise(pauses))


def test_rounds_never_stop() -> None:
    """A second apart at most."""
    ladder = Ladder(Immortal(), 0)

    for _ in range(20):
        ladder.wake_at_ns = 0
        ladder.tick()

    assert ladder.wake_at_ns - boot_ns() <= 1_000_000_000
