"""The spawner: a small process of the warden's that does nothing but fork shims.

A page that the parent writes between two forks stays behind in the older child as its own
copy. The warden writes many; the spawner hardly any, so that 200 shims share what they were
born with. And a fork, a millisecond or two, no longer keeps the guard waiting.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC
from _socket import socket as c_socket
from collections.abc import Mapping
from typing import NoReturn

from agentd.core.job import OutputKind
from agentd.shim import main as shim
from agentd.shim.daemonize import double_fork
from agentd.shim.leader import Origin
from agentd.shim.main import Assignment, Rescue
from agentd.shim.sweep import sweep
from agentd.system import packets
from agentd.system.crashpoint import reach
from agentd.system.files import keep_only
from agentd.system.prctl import set_name

_INT_BYTES = 4
_ORDER_BYTES = 8 << 10
_ROOM = CMSG_SPACE(8 * _INT_BYTES)
#: What a terminal or a logout may send is none of a shim's business.
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


class Spawner:
    """The warden's end. An order that is lost with the spawner closes its control socket."""

    def __init__(self, origin: Origin) -> None:
        """Fork the first spawner."""
        self._origin = origin
        self.pid = 0
        self._socket: c_socket | None = None
        self.restart()

    def restart(self) -> None:
        """Fork a spawner; the warden reaps the one before."""
        if self._socket is not None:
            self._socket.close()
        ours, theirs = packets.pair()
        self.pid = os.fork()
        if self.pid == 0:
            theirs.setblocking(True)
            _serve(theirs, self._origin)
        theirs.close()
        self._socket = ours

    def start(self, directory: str, control: int, kind: OutputKind) -> bool:
        """Have a new job's shim forked; False if the spawner takes no orders now."""
        return self._order(f"start {kind} {directory}", (control,))

    def rescue(self, directory: str, control: int, work: Rescue) -> bool:
        """Have a rescue shim forked; False if the spawner takes no orders now."""
        parent = "warden" if work.parent_is_warden else "other"
        names = ",".join(work.descriptors) or "-"
        order = f"rescue {parent} {names} {directory}"
        return self._order(order, (control, *work.descriptors.values()))

    def sweep(self, directory: str, grace_s: float) -> bool:
        """Have what a lost job left behind ended."""
        return self._order(f"sweep {grace_s} {directory}", ())

    def _order(self, order: str, descriptors: tuple[int, ...]) -> bool:
        if self._socket is None:
            return False
        return packets.send_bytes(self._socket, os.fsencode(order), descriptors)


def _serve(orders: c_socket, origin: Origin) -> NoReturn:
    """Fork what is ordered until the warden is gone. Never returns."""
    try:
        set_name("agentd-spawner")
        keep_only((orders.fileno(),))
        signal.set_wakeup_fd(-1)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        # A shim wakes up for its children; the handler is here, so that it sets none.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        # Objects that exist now are shared by every shim: the collector must not touch them.
        gc.collect()
        gc.freeze()
        while True:
            order, ancillary, _, _ = orders.recvmsg(_ORDER_BYTES, _ROOM, MSG_CMSG_CLOEXEC)
            if not order:
                break
            descriptors = ancillary[0][2] if ancillary else b""
            reach("spawner.ordered")
            between = double_fork(lambda: _obey(order, descriptors, origin))  # noqa: B023  # called before the next turn
            os.waitpid(between, 0)
            reach("spawner.forked")
            for start in range(0, len(descriptors), _INT_BYTES):
                os.close(int.from_bytes(descriptors[start : start + _INT_BYTES], sys.byteorder))
    finally:
        os._exit(0)


def _obey(order: bytes, packed: bytes, origin: Origin) -> NoReturn:
    """Be what was ordered, in a process of its own. Never returns."""
    descriptors = [
        int.from_bytes(packed[start : start + _INT_BYTES], sys.byteorder)
        for start in range(0, len(packed), _INT_BYTES)
    ]
    verb, _, rest = os.fsdecode(order).partition(" ")
    what, _, rest = rest.partition(" ")
    if verb == "sweep":
        sweep(rest, float(what))
    set_name("agentd-shim")
    if verb == "start":
        shim.run(Assignment(rest, descriptors[0], origin, OutputKind(what)))
    names, _, directory = rest.partition(" ")
    named: Mapping[str, int] = dict(zip(names.split(","), descriptors[1:], strict=False))
    shim.run(Assignment(directory, descriptors[0], origin, Rescue(named, what == "warden")))
