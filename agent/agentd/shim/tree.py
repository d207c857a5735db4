"""All processes of one job, and signals to all of them."""

from __future__ import annotations

import os
from time import sleep

from agentd.system import proc
from agentd.system.signals import SIGKILL, SIGSTOP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from agentd.system.proc import Identity
else:
    Protocol = object


class Tree(Protocol):
    """The processes of one job."""

    def members(self) -> list[int]:
        """Return the living ones, as far as one look can tell."""

    def is_empty(self) -> bool:
        """Say whether none is left, and so none can ever come."""

    def send(self, signal_number: int) -> None:
        """Send a signal to each living one, once."""

    def send_to_group(self, signal_number: int) -> None:
        """Send a signal to the leader's process group, as a terminal would."""


#: A tree that still grows after so many looks is a fork bomb; SIGKILL gets the rest.
_FREEZE_ROUNDS = 20
_LOOKS = 8
_BETWEEN_LOOKS_S = 0.005


class OwnTree:
    """Everything below this process, a subreaper: what loses its parent becomes our child."""

    __slots__ = ("_leader_pid",)

    def __init__(self, leader_pid: int) -> None:
        """`leader_pid` is our child and stays unreaped until the record is written."""
        self._leader_pid = leader_pid

    def members(self) -> list[int]:
        """Return the living processes below us."""
        return [pid for pid in proc.descendants(os.getpid()) if proc.is_running(pid)]

    def is_empty(self) -> bool:
        """Reap what was orphaned and ended, then see whether the leader's zombie is alone.

        Exact where a look at the whole tree is not: whoever lives has an ancestor among our
        children, and from that list nobody goes but by our reaping.
        """
        for pid in proc.own_children():
            if pid != self._leader_pid:
                os.waitpid(pid, os.WNOHANG)
        others = [pid for pid in proc.own_children() if pid != self._leader_pid]
        return not any(not proc.is_agent(pid) for pid in others) and not proc.is_running(
            self._leader_pid
        )

    def send(self, signal_number: int) -> None:
        """Signal the leader's group at one stroke, then whoever left the group.

        The leader is unreaped, so its group id cannot be anybody else's.
        """
        self.send_to_group(signal_number)
        outside = [pid for pid in self.members() if proc.group_of(pid) != self._leader_pid]
        proc.send_all(outside, signal_number)

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

    def __init__(self, uid: str, leader: Identity | None) -> None:
        """`uid` is the mark in their environment; `leader` belongs even without it."""
        self._uid = uid
        self._leader = leader

    def members(self) -> list[int]:
        """Return the living processes that carry the mark, and those that belong to them."""
        return proc.find_members(self._uid, self._leader)

    def is_empty(self) -> bool:
        """Say whether no living process carries the mark or belongs to one that does.

        Processes that fork and end all the time slip through one look, hardly through several.
        """
        for _ in range(_LOOKS):
            if self.members():
                return False
            sleep(_BETWEEN_LOOKS_S)
        return True

    def send(self, signal_number: int) -> None:
        """Signal each by its identity."""
        proc.send_all(self.members(), signal_number)

    def send_to_group(self, signal_number: int) -> None:
        """Signal each that is in the leader's group, by its identity."""
        if self._leader is None:
            return
        group = [pid for pid in self.members() if proc.group_of(pid) == self._leader.pid]
        proc.send_all(group, signal_number)


def freeze(tree: Tree) -> None:
    """SIGSTOP to all, again until nobody new has appeared."""
    frozen: set[int] = set()
    for _ in range(_FREEZE_ROUNDS):
        tree.send(SIGSTOP)
        members = set(tree.members())
        if members <= frozen and (members or tree.is_empty()):
            return
        frozen = members


def kill(tree: Tree) -> None:
    """Freeze all, so that few can fork in between, then SIGKILL to all; to be repeated."""
    freeze(tree)
    tree.send(SIGKILL)
