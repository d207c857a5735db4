"""The talk between leader and shim, over a real socket and between real processes."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.shim.plan import Plan
from agentd.shim.start import StartError, StartTalk
from agentd.system import packets
from tests.helpers.descriptors import held
from tests.unit.agentd.system.sandbox import fork, isolated

PLAN = Plan(7, 42, 1000, 5, 6, 7, -1, 100, 1000, 3, "/c g", b'{"type":"JobStarted"}')
ERROR = StartError("execute", errno.ENOENT, "/no/such program")


class Ends:
    """Both ends of a talk."""

    def __init__(self) -> None:
        """Connect them."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.shim = StartTalk(ours.detach())
        self.leader = StartTalk(theirs.detach())

    def end_leader(self) -> None:
        """Let go of the leader's end, as its exec or its death does."""
        self.leader._socket.close()

    def end_shim(self) -> None:
        """Let go of the shim's end, as its death does."""
        self.shim._socket.close()

    def propose(self) -> None:
        """Send the plan without waiting at the gate."""
        self.leader._socket.send(PLAN.encode())


@pytest.fixture(name="ends")
def _ends() -> Iterator[Ends]:
    """Yield both ends; afterwards neither is open, and nothing else."""
    before = held()
    ends = Ends()
    yield ends
    ends.end_leader()
    ends.end_shim()
    assert held() <= before


def test_the_plan_is_heard(ends: Ends) -> None:
    """Whole."""
    ends.propose()

    assert ends.shim.hear_plan() == PLAN


def test_a_leader_that_ends_before_its_plan_has_none(ends: Ends) -> None:
    """It has not begun and may be launched again."""
    ends.end_leader()

    assert ends.shim.hear_plan() is None


def test_nothing_is_known_before_the_program_is_executed(ends: Ends) -> None:
    """Neither before the plan was heard nor after."""
    with pytest.raises(BlockingIOError):
        ends.shim.outcome()
    ends.propose()
    ends.shim.hear_plan()

    with pytest.raises(BlockingIOError):
        ends.shim.outcome()


@pytest.mark.parametrize("is_heard", [True, False], ids=["heard", "unheard"])
def test_an_end_without_a_report_is_a_program_that_runs(ends: Ends, *, is_heard: bool) -> None:
    """The leader's end is close-on-exec; the plan may be unheard by a rescue shim."""
    ends.propose()
    if is_heard:
        ends.shim.hear_plan()
    ends.end_leader()

    assert ends.shim.outcome() is None
    assert ends.shim.outcome() is None


@pytest.mark.parametrize("is_heard", [True, False], ids=["heard", "unheard"])
def test_a_report_is_told_as_often_as_it_is_asked_for(ends: Ends, *, is_heard: bool) -> None:
    """By the shim, by a rescue shim after it; before the leader's end and after."""
    ends.propose()
    if is_heard:
        ends.shim.hear_plan()
    ends.leader.report(ERROR)

    assert ends.shim.outcome() == ERROR
    assert ends.shim.outcome() == ERROR
    ends.end_leader()
    assert ends.shim.outcome() == ERROR


@pytest.mark.parametrize("is_reported", [True, False], ids=["failed", "executed"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_gate_opened_more_than_once_does_no_harm(
    ends: Ends, times: int, *, is_reported: bool
) -> None:
    """A rescue shim cannot know whether it was opened; the leader takes one of them."""
    ends.propose()
    ends.shim.hear_plan()
    for _ in range(times):
        ends.shim.open_gate()
    ends.leader._socket.recv(2)
    if is_reported:
        ends.leader.report(ERROR)
    ends.end_leader()

    assert ends.shim.outcome() == (ERROR if is_reported else None)
    assert ends.shim.outcome() == (ERROR if is_reported else None)


def test_a_gate_opened_for_nobody_does_no_harm(ends: Ends) -> None:
    """The leader ended meanwhile; that is learned elsewhere."""
    ends.end_leader()

    ends.shim.open_gate()


def test_a_report_to_nobody_does_no_harm(ends: Ends) -> None:
    """The leader ends anyway."""
    ends.end_shim()

    ends.leader.report(ERROR)


@isolated
def test_the_leader_waits_at_the_gate() -> None:
    """And goes on when it is open."""
    ends = Ends()
    leader = fork(lambda: os._exit(33 if ends.leader.propose(PLAN) else 34))
    ends.end_leader()
    assert ends.shim.hear_plan() == PLAN
    assert os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG) is None

    ends.shim.open_gate()

    assert os.waitpid(leader, 0)[1] == 33 << 8


@isolated
@pytest.mark.parametrize("is_heard", [True, False], ids=["heard", "unheard"])
def test_the_leader_does_not_go_on_if_nobody_is_left_to_open_the_gate(*, is_heard: bool) -> None:
    """Shim and warden were killed: it must not run unminded."""
    ends = Ends()
    leader = fork(ends.end_shim, lambda: os._exit(33 if ends.leader.propose(PLAN) else 34))
    ends.end_leader()
    if is_heard:
        ends.shim.hear_plan()
    ends.end_shim()

    assert os.waitpid(leader, 0)[1] == 34 << 8


@isolated
@pytest.mark.parametrize("is_heard", [True, False], ids=["heard", "unheard"])
def test_a_rescue_shim_goes_on_with_the_same_talk(*, is_heard: bool) -> None:
    """The shim was killed with the plan heard or not; its socket lives on in the warden."""
    ends = Ends()
    leader = fork(
        ends.end_shim,
        lambda: ends.leader.propose(PLAN),
        lambda: ends.leader.report(ERROR),
    )
    ends.end_leader()
    shim = fork(*[ends.shim.hear_plan] * is_heard, lambda: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(shim, 0)

    ends.shim.open_gate()

    assert os.waitpid(leader, 0)[1] == 0
    assert ends.shim.outcome() == ERROR


@given(st.text(min_size=1), st.sampled_from(sorted(errno.errorcode)), st.text())
def test_a_report_comes_back_as_it_was(step: str, number: int, path: str) -> None:
    """Paths that are no UTF-8 included."""
    ends = Ends()
    error = StartError(step, number, path + "\udcff")
    ends.leader.report(error)

    assert ends.shim.outcome() == error
    ends.end_leader()
    ends.end_shim()


def test_a_report_is_one_line_for_people() -> None:
    """What, which path, why."""
    assert ERROR.reason == "cannot execute /no/such program: No such file or directory"


def test_the_talk_only_borrows_its_descriptor() -> None:
    """Who made it closes it."""
    ours, theirs = packets.pair()
    talk = StartTalk(ours.fileno())

    talk.close()

    ours.send(b"still open")
    assert theirs.recv(100) == b"still open"
    ours.close()
    theirs.close()
