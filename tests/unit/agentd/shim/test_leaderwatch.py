"""How a leader's end is learned, by its parent and by one that is not."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace

import pytest

from agentd.core.job import ProcessId
from agentd.shim.leaderwatch import ForeignLeader, OwnLeader, Unknown
from agentd.system import process
from agentd.system.kernel import Ended
from tests.helpers.descriptors import held
from tests.helpers.wait import read_stat, wait_until
from tests.unit.agentd.system.sandbox import fork, hang, isolated, sleeper

#: Linux 6.15 and later tell the exit status through a pidfd.
KERNEL_TELLS = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 15)


def known(pid: int) -> ProcessId:
    """Return the identity of a process that exists."""
    found = process.identify(pid)
    assert found is not None
    return found


class Elsewhere:
    """A leader whose parent is another process, which reaps it when told."""

    def __init__(self) -> None:
        """Start both."""
        told, tell = os.pipe()
        order, self._order = os.pipe()

        def be_the_parent() -> None:
            pid = sleeper()
            os.write(tell, str(pid).encode())
            os.read(order, 1)
            os.waitpid(pid, 0)
            hang()

        fork(be_the_parent)
        self.leader = known(int(os.read(told, 20)))

    def end(self) -> None:
        """Kill the leader; it stays a zombie."""
        os.kill(self.leader.pid, signal.SIGTERM)
        wait_until(lambda: not process.is_alive(self.leader), what="the leader dead")

    def reap(self) -> None:
        """Have its parent reap it."""
        os.write(self._order, b"!")
        wait_until(lambda: process.identify(self.leader.pid) is None, what="the leader reaped")


@isolated
def test_a_parent_sees_the_end_of_its_leader() -> None:
    """The zombie stays until it is let go."""
    pid = sleeper()
    watch = OwnLeader(pid)
    assert watch.look() is None
    os.kill(pid, signal.SIGTERM)

    wait_until(watch.look, what="the end")

    seen = watch.look()
    assert seen is not None
    assert seen.wait_status == signal.SIGTERM
    assert read_stat(pid) is not None
    watch.reap()
    assert read_stat(pid) is None


@isolated
@pytest.mark.parametrize("parent_is_warden", [True, False])
def test_a_foreign_leader_that_runs_has_not_ended(*, parent_is_warden: bool) -> None:
    """Its pidfd is there to be waited on, and is not readable."""
    elsewhere = Elsewhere()

    watch = ForeignLeader(elsewhere.leader, parent_is_warden=parent_is_warden)

    assert watch.look() is None
    assert watch.pidfd >= 0
    assert not watch.has_ended()


@isolated
def test_a_zombie_of_the_warden_waits_for_its_word() -> None:
    """With the status comes what the job used, which only its parent is told."""
    elsewhere = Elsewhere()
    watch = ForeignLeader(elsewhere.leader, parent_is_warden=True)

    elsewhere.end()

    assert watch.has_ended()
    assert watch.look() is None
    assert ForeignLeader(elsewhere.leader, parent_is_warden=True).has_ended()


@isolated
def test_a_zombie_that_nobody_reaps_tells_its_own_status() -> None:
    """An init that reaps late, or never, keeps nobody waiting."""
    elsewhere = Elsewhere()
    watch = ForeignLeader(elsewhere.leader, parent_is_warden=False)

    elsewhere.end()

    assert watch.look() == Ended(signal.SIGTERM)
    assert ForeignLeader(elsewhere.leader, parent_is_warden=False).look() == Ended(signal.SIGTERM)


@isolated
@pytest.mark.parametrize("moment", ["alive", "zombie", "reaped"])
def test_the_wardens_word_is_taken_at_any_moment(moment: str) -> None:
    """It is the parent and has looked; usage comes with it."""
    elsewhere = Elsewhere()
    watch = ForeignLeader(elsewhere.leader, parent_is_warden=True)
    if moment != "alive":
        elsewhere.end()
    if moment == "reaped":
        elsewhere.reap()

    watch.tell(Ended(9 << 8, 0.5, 0.25, 4096))

    assert watch.look() == Ended(9 << 8, 0.5, 0.25, 4096)


@isolated
def test_a_new_kernel_tells_what_nobody_else_can() -> None:
    """To whoever held a pidfd; an old kernel does not, and then nobody knows."""
    elsewhere = Elsewhere()
    watch = ForeignLeader(elsewhere.leader, parent_is_warden=False)
    elsewhere.end()
    elsewhere.reap()

    end = watch.look()

    if KERNEL_TELLS:
        assert end == Ended(signal.SIGTERM)
    else:
        assert isinstance(end, Unknown)


@isolated
def test_who_comes_too_late_knows_nothing() -> None:
    """Reaped before the pidfd was opened: unknown, which is neither an exit nor a kill."""
    elsewhere = Elsewhere()
    elsewhere.end()
    elsewhere.reap()

    watch = ForeignLeader(elsewhere.leader, parent_is_warden=False)

    assert isinstance(watch.look(), Unknown)
    assert watch.has_ended()
    assert watch.pidfd == -1


@isolated
def test_a_word_that_was_promised_is_waited_for() -> None:
    """Until the warden is gone as well."""
    elsewhere = Elsewhere()
    elsewhere.end()
    elsewhere.reap()
    watch = ForeignLeader(elsewhere.leader, parent_is_warden=True)
    assert watch.look() is None

    watch.expects_word = False

    assert isinstance(watch.look(), Unknown)


@isolated
def test_a_recycled_pid_is_not_the_leader() -> None:
    """No pidfd of a stranger is kept, and its life is not the leader's."""
    stranger = known(sleeper())
    before = held()

    recycled = replace(stranger, start_ticks=stranger.start_ticks - 1)
    watch = ForeignLeader(recycled, parent_is_warden=False)

    assert watch.pidfd == -1
    assert held() <= before
    assert watch.has_ended()
    assert isinstance(watch.look(), Unknown)


@isolated
def test_a_foreign_leader_is_not_ours_to_reap() -> None:
    """Its parent does."""
    elsewhere = Elsewhere()
    elsewhere.end()

    ForeignLeader(elsewhere.leader, parent_is_warden=True).reap()

    assert read_stat(elsewhere.leader.pid) is not None
