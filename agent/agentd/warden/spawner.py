"""The warden's end of the spawner: see shim.spawning."""

from __future__ import annotations

import os
import sys
import time
import traceback
from _socket import socket as c_socket
from collections.abc import Sequence

import agentd
from agentd.core.job import OutputKind
from agentd.shim.leader import Origin
from agentd.shim.main import Rescue
from agentd.system import packets
from agentd.system.complaint import complain

_ORDERS_FD = 3
_GOOD_LIFE_S = 1.0
#: A longer one would not fit into the room of the pidfile, nor, with a long directory, an order.
_CGROUP_PATH_BYTES = 512
_ROOT = os.path.dirname(os.path.dirname(agentd.__file__))
#: Without site-packages and what they may hook into every interpreter.
_BOOT = "import sys; sys.path.append(sys.argv[1]); from agentd.shim.spawning import main; main()"
_COMMAND = (sys.executable, "-I", "-S", "-c", _BOOT, _ROOT)


class Spawner:
    """One spawner at a time. An order that is lost with it closes its control socket."""

    def __init__(self, origin: Origin, scratch: str = "") -> None:
        """Start the first one. `scratch` is a directory for its rehearsal: see shim.rehearsal."""
        self._origin = origin
        self._scratch = scratch
        self.pid = 0
        #: The delegated cgroup in which it is; empty: none.
        self.cgroup = ""
        self._started_s = 0.0
        self._socket: c_socket | None = None
        self._start()

    def restart(self) -> None:
        """Start another spawner: the warden has reaped the last one.

        One that lived only for a moment is followed by the next when there is an order.
        """
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self.cgroup = ""
        if time.monotonic() - self._started_s >= _GOOD_LIFE_S:
            self._start()

    def _start(self) -> None:
        self._started_s = time.monotonic()
        # A new one is where the warden is.
        self.cgroup = ""
        ours, theirs = packets.pair()
        # The kernel blocks on behalf of the file, not of the socket object.
        theirs.setblocking(True)
        numbers = (_ORDERS_FD, self._origin.umask, *self._origin.open_files)
        try:
            # Not fork: nothing of the warden's memory is copied.
            self.pid = os.posix_spawn(
                sys.executable,
                (*_COMMAND, *map(str, numbers), self._scratch),
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), _ORDERS_FD),
                ],
                setsigmask=(),
            )
            self._socket = ours
        except OSError:
            # Out of processes or memory; the next order tries again.
            complain(traceback.format_exc())
            ours.close()
        finally:
            theirs.close()

    def use_cgroup(self, path: str, spawner_pid: int) -> bool:
        """Have every job from now on make its own cgroup below `path`.

        False, and nothing changes: that spawner is gone, or the path is absurd.
        """
        is_usable = path.startswith("/") and len(os.fsencode(path)) <= _CGROUP_PATH_BYTES
        if spawner_pid != self.pid or self._socket is None or not is_usable:
            return False
        self.cgroup = path
        return True

    def start(self, directory: str, control: int, kind: OutputKind) -> bool:
        """Have a new job's shim forked; False if the spawner takes no orders now."""
        if self._socket is None:
            # It may be another one by then.
            self._start()
        below = f"\0{self.cgroup}" if self.cgroup else ""
        return self._order(f"start {kind} {directory}{below}", (control,))

    def rescue(self, directory: str, control: int, work: Rescue) -> bool:
        """Have a rescue shim forked; False if the spawner takes no orders now."""
        parent = "warden" if work.parent_is_warden else "other"
        names = ",".join(work.descriptors) or "-"
        order = f"rescue {parent} {names} {directory}"
        return self._order(order, (control, *work.descriptors.values()))

    def sweep(self, directory: str, grace_s: float) -> bool:
        """Have what a lost job left behind ended."""
        return self._order(f"sweep {grace_s} {directory}", ())

    def read(self, paths: Sequence[str], pipe: int) -> bool:
        """Have files of /proc read and written to a pipe: see system.rollups."""
        # Of a job of thousands of processes more than a packet holds.
        names = os.memfd_create("paths")
        try:
            os.write(names, " ".join(paths).encode())
            return self._order("read - -", (pipe, names))
        finally:
            os.close(names)

    def _order(self, order: str, descriptors: tuple[int, ...]) -> bool:
        if self._socket is None:
            self._start()
        if self._socket is None:
            return False
        return packets.send_bytes(self._socket, os.fsencode(order), descriptors)
