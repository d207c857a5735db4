"""All processes of one job, and signals to all of them."""

from __future__ import annotations

import os
import signal
from typing import Protocol

from agentd.core.job import ProcessId
from agentd.system import process

#: A tree that still grows after so many looks is a fork bomb; SIGKILL gets the rest.
_FREEZE_ROUNDS = 20


class Tree(Protocol):
    """The processes of one job."""

    def members(self) -> list[int]:
        """Return the living ones."""

    def send(self, signal_number: int) -> None:
        """Send a signal to each living one, once."""

    def send_to_group(self, signal_number: int) -> None:
        """Send a signal to the leader's process group, as a terminal would."""


class OwnTree:
    """Everything below this process, a subreaper: nothing of the job can leave it."""

    def __init__(self, leader_pid: int) -> None:
        """`leader_pid` is our child and stays unreaped until the record is written."""
        self._leader_pid = leader_pid

    def members(self) -> list[int]:
        """Return the living processes below us."""
        return [pid for pid in process.descendants(os.getpid()) if process.is_running(pid)]

    def send(self, signal_number: int) -> None:
        """Signal the leader's group at one stroke, then whoever left the group.

        The leader is unreaped, so its group id cannot be anybody else's.
        """
        self.send_to_group(signal_number)
        outside = [pid for pid in self.members() if _group_of(pid) != self._leader_pid]
        process.send_all(outside, signal_number)

    def send_to_group(self, signal_number: int) -> None:
        """Signal the leader's group at one stroke."""
        try:
            os.killpg(self._leader_pid, signal_number)
        except ProcessLookupError:
            # The leader has not made its session yet.
            os.kill(self._leader_pid, signal_number)
        except PermissionError:
            # Some of the group changed their uid (sudo): kill(2) reached all that it could.
            return


class FoundTree:
    """The processes of a job whose shim was killed: somebody else's children by now."""

    def __init__(self, uid: str, leader: ProcessId | None) -> None:
        """`uid` is the mark in their environment; `leader` belongs even without it."""
        self._uid = uid
        self._leader = leader

    def members(self) -> list[int]:
        """Return the living processes that carry the mark, and those that belong to them."""
        return process.find_members(self._uid, self._leader)

    def send(self, signal_number: int) -> None:
        """Signal each by its identity."""
        process.send_all(self.members(), signal_number)

    def send_to_group(self, signal_number: int) -> None:
        """Signal each that is in the leader's group, by its identity."""
        if self._leader is None:
            return
        group = [pid for pid in self.members() if _group_of(pid) == self._leader.pid]
        process.send_all(group, signal_number)


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def freeze(tree: Tree) -> None:
    """SIGSTOP to all, again until nobody new has appeared."""
    frozen: set[int] = set()
    for _ in range(_FREEZE_ROUNDS):
        tree.send(signal.SIGSTOP)
        members = set(tree.members())
        if members <= frozen:
            return
        frozen = members


def kill(tree: Tree) -> None:
    """Freeze all, so that none can fork in between, then SIGKILL to all."""
    freeze(tree)
    tree.send(signal.SIGKILL)
