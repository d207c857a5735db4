"""The processes of one job as the warden sees them: below its shim, or found by their mark."""

from __future__ import annotations

import os
import signal
import time

from agentd.core.job import ProcessId
from agentd.errors import RecordCorruptError
from agentd.system import jobdir, proc, process
from agentd.warden.minded import MindedJob


class MindedTree:
    """One job's processes; a shim.tree.Tree.

    As long as its own shim lives everything is below that. Once a rescue shim minds the job, or
    none does for the moment, members are found by the job's mark: milliseconds instead of
    microseconds.
    """

    def __init__(self, job: MindedJob) -> None:
        """See the tree of `job` as it changes."""
        self._job = job
        self._uid: str | None = None
        #: The shim of which we know whether the leader is its child.
        self._asked_shim_pid = 0
        self._is_below_shim = False

    def members(self) -> list[int]:
        """Return the living processes, as far as one look can tell."""
        if self._hangs_below_shim():
            return [pid for pid in proc.descendants(self._shim_pid) if proc.is_running(pid)]
        return proc.find_members(self._mark(), self._leader)

    def everyone(self) -> list[int]:
        """Return all processes, zombies too: what a gauge wants to know of, cheaper."""
        if self._hangs_below_shim():
            return proc.descendants(self._shim_pid)
        return proc.find_members(self._mark(), self._leader)

    def is_empty(self) -> bool:
        """Say whether one look found none; that none can come only the shim can say."""
        return not self.members()

    def send(self, signal_number: int) -> None:
        """Signal the leader's group at one stroke, then whoever was not reached by that."""
        is_group_hit = self._hit_group(signal_number)
        hit = self._leader.pid if is_group_hit else None
        left = [pid for pid in self.members() if proc.group_of(pid) != hit]
        proc.send_all(left, signal_number)

    def send_to_group(self, signal_number: int) -> None:
        """Signal the leader's group, if the leader lives."""
        self._hit_group(signal_number)

    def _hit_group(self, signal_number: int) -> bool:
        # Only while the leader lives its number is nobody else's.
        if not process.is_alive(self._leader):
            return False
        try:
            os.killpg(self._leader.pid, signal_number)
        except ProcessLookupError:
            return False
        except PermissionError:
            # Some of it changed their uid: the rest was reached.
            return True
        return True

    @property
    def root(self) -> int | None:
        """The process below which all of them hang; None: there is none just now."""
        return self._shim_pid if self._hangs_below_shim() else None

    @property
    def _leader(self) -> ProcessId:
        view = self._job.view
        return ProcessId(view.leader_pid, view.leader_start_ticks)

    @property
    def _shim_pid(self) -> int:
        return self._job.view.shim_pid

    def _hangs_below_shim(self) -> bool:
        shim = self._job.shim
        if shim is None or not process.is_alive(shim):
            return False
        if shim.pid != self._asked_shim_pid:
            self._is_below_shim = self._leader.pid in proc.children(shim.pid)
            self._asked_shim_pid = shim.pid
        return self._is_below_shim

    def _mark(self) -> str:
        if self._uid is None:
            try:
                spec = jobdir.read_spec(self._job.directory)
            except (RecordCorruptError, OSError):
                spec = None
            # No process carries an empty mark: then there is the leader and what is below it.
            self._uid = spec.uid if spec is not None else "none"
        return self._uid


class Freezing:
    """One tree being stopped, a slice at a time: a fork bomb must not keep others waiting."""

    def __init__(self, tree: MindedTree) -> None:
        """Nothing is stopped yet."""
        self._tree = tree
        self._stopped: set[int] = set()
        self.is_complete = False

    def go_on(self, slice_s: float) -> None:
        """SIGSTOP to all, again until nobody new has appeared or the time is over."""
        until_s = time.monotonic() + slice_s
        while not self.is_complete:
            self._tree.send(signal.SIGSTOP)
            members = set(self._tree.members())
            self.is_complete = members <= self._stopped
            self._stopped = members
            if time.monotonic() >= until_s:
                return
