"""How the leader's end is learned: by its parent, or by a rescue shim that is not."""

from __future__ import annotations

import os
import select

from agentd.system import kernel, proc
from agentd.system.kernel import Ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from agentd.system.proc import Identity
else:
    Protocol = object


class LeaderWatch(Protocol):
    """Knows whether the leader has ended."""

    #: Readable once it has, or -1: then SIGCHLD tells.
    pidfd: int

    def look(self) -> Ended | Unknown | None:
        """Return how it ended, or None while it runs."""

    def reap(self) -> None:
        """Let the zombie go; the exit record is durable."""


class Unknown:
    """The leader is gone and nobody can say how it ended."""


class OwnLeader:
    """Our child: waitid(2) with WNOWAIT tells exactly."""

    __slots__ = ("_pid", "pidfd")

    def __init__(self, pid: int) -> None:
        """`pid` is a child of this proc."""
        self._pid = pid
        self.pidfd = -1

    def look(self) -> Ended | None:
        """Return how it ended, without reaping it."""
        return kernel.look_at_exit(self._pid)

    def reap(self) -> None:
        """Reap it."""
        os.waitpid(self._pid, os.WNOHANG)


class ForeignLeader:
    """Somebody else's child. The warden tells, if it is the parent; else a new kernel may know."""

    def __init__(self, leader: Identity, *, parent_is_warden: bool) -> None:
        """Open a pidfd while the leader, living or zombie, still has its pid."""
        self._leader = leader
        self._told: Ended | None = None
        #: Whether a word of the warden is still to be waited for.
        self.expects_word = parent_is_warden
        self.pidfd = -1
        try:
            pidfd = os.pidfd_open(leader.pid)
        except OSError:
            return
        if proc.start_ticks(leader.pid) == leader.start_ticks:
            self.pidfd = pidfd
        else:
            os.close(pidfd)

    def tell(self, word: Ended) -> None:
        """Take the warden's word: it is the parent and has looked without reaping."""
        self._told = word

    def look(self) -> Ended | Unknown | None:
        """Return how it ended, Unknown if neither the warden nor the kernel will ever tell."""
        if self._told is not None:
            return self._told
        if not self.has_ended():
            return None
        if self.pidfd >= 0:
            status = kernel.exit_status_of(self.pidfd)
            if status is not None:
                return Ended(status)
        if not self.expects_word:
            # A zombie below an init that reaps late, or never, as in many a container.
            status = proc.zombie_status(self._leader)
            if status is not None:
                return Ended(status)
        if self.expects_word or proc.start_ticks(self._leader.pid) == self._leader.start_ticks:
            # A zombie still: its parent will reap it or send word.
            return None
        return Unknown()

    def reap(self) -> None:
        """Nothing: its parent does."""

    def has_ended(self) -> bool:
        """Say whether the pidfd is readable: the leader is a zombie or gone."""
        if self.pidfd < 0:
            return not proc.is_alive(self._leader)
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))
