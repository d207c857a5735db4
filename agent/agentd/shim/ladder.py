"""The stop ladder: SIGTERM to the whole tree, grace, SIGKILL until nothing is left."""

from __future__ import annotations

from agentd.shim import tree as trees
from agentd.system.clock import boot_ns
from agentd.system.signals import SIGCONT, SIGTERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agentd.shim.tree import Tree

_ROUND_NS = 5_000_000
_LONGEST_ROUND_NS = 1_000_000_000


class Ladder:
    """One stop. Times are CLOCK_BOOTTIME nanoseconds."""

    def __init__(self, tree: Tree, kill_at_ns: int) -> None:
        """Send SIGTERM to all, or with a deadline that has passed nothing yet."""
        self._tree = tree
        self._round_ns = _ROUND_NS
        #: When SIGKILL follows, then when the next round of it does.
        self.wake_at_ns = kill_at_ns
        self.killing = False
        #: Whether there was any grace.
        self.has_terminated = boot_ns() < kill_at_ns
        #: Whether somebody would not wait for the end of the grace.
        self.is_hurried = False
        if self.has_terminated:
            tree.send(SIGTERM)
            # A stopped process would not see its SIGTERM before the grace is over.
            tree.send(SIGCONT)

    def hurry(self, kill_at_ns: int) -> None:
        """Move the deadline forward; never back."""
        if not self.killing and kill_at_ns < self.wake_at_ns:
            self.wake_at_ns = kill_at_ns
            self.is_hurried = True

    def tick(self) -> None:
        """Do what is due; processes that cannot end yet (state D) are tried ever less often."""
        now_ns = boot_ns()
        if now_ns < self.wake_at_ns:
            return
        self.killing = True
        trees.kill(self._tree)
        self.wake_at_ns = now_ns + self._round_ns
        self._round_ns = min(self._round_ns * 2, _LONGEST_ROUND_NS)
