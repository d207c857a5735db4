"""The spawner's process: it does nothing but fork shims.

A page that a parent writes between two forks stays behind in the older child as its own copy,
and every page ever touched is an entry to be copied at every fork. The warden has many; so the
spawner is a fresh interpreter that imports what shims and leaders need and no more: no
dataclasses, enum, typing, re, json or socket. Half a megabyte of each shim and half of the
time of a launch (measured with 200 shims). And a fork no longer keeps the guard waiting.
"""

from __future__ import annotations

import gc
import os
import sys
from _socket import socket as c_socket

from agentd.shim import main as shim
from agentd.shim.daemonize import double_fork
from agentd.shim.leader import IGNORED, Origin
from agentd.shim.main import NewJob, Rescue
from agentd.shim.rehearsal import rehearse
from agentd.shim.sweep import sweep
from agentd.system import rollups
from agentd.system.clock import boot_id
from agentd.system.complaint import complain
from agentd.system.crashpoint import IS_ARMED, reach
from agentd.system.files import keep_only
from agentd.system.kernel import reset_signals, set_name
from agentd.system.seqpacket import receive_bytes
from agentd.system.signals import SIG_DFL, SIG_IGN, SIGCHLD, SIGPIPE, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_ORDER_BYTES = 8 << 10


def serve(orders: int, origin: Origin, scratch: str) -> NoReturn:
    """Fork what is ordered until the warden is gone. Never returns.

    `orders` is a packet socket, `scratch` a directory to be made and removed, or empty.
    """
    try:
        set_name("agentd-spawner")
        os.set_inheritable(orders, False)
        _hold_standard_streams()
        reset_signals()
        for number in IGNORED:
            signal(number, SIG_IGN)
        # A shim wakes up for its children; the handler is here, so that it sets none.
        signal(SIGCHLD, lambda _number, _frame: None)
        # Read once, not by every leader.
        boot_id()
        if scratch and not IS_ARMED:
            rehearse(scratch, origin)
        # Sockets of the rehearsal close themselves first, and no stranger with their number.
        gc.collect()
        keep_only((orders,))
        # Objects that exist now are shared by every shim: the collector must not touch them.
        gc.freeze()
        _serve(c_socket(fileno=orders), origin)
    except BaseException:  # noqa: BLE001  # the warden starts another
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _hold_standard_streams() -> None:
    """See to it that what is opened later is none of 0, 1 and 2: a leader relies on that."""
    while os.open(os.devnull, os.O_RDWR) <= 2:  # noqa: PLR2004  # standard error
        pass


def _serve(orders: c_socket, origin: Origin) -> None:
    while True:
        order, descriptors = receive_bytes(orders, _ORDER_BYTES)
        if not order:
            return
        reach("spawner.ordered")
        try:
            os.waitpid(double_fork(_obey, order, descriptors, orders, origin), 0)
        except OSError as error:
            # Out of processes or memory: the order's control socket closes, and it comes again.
            complain(f"spawner: cannot fork: {error}")
        reach("spawner.forked")
        for descriptor in descriptors:
            os.close(descriptor)


def _obey(order: bytes, descriptors: list[int], orders: c_socket, origin: Origin) -> NoReturn:
    """Be what was ordered, in a process of its own. Never returns."""
    # The warden takes the end of this socket for the end of the spawner.
    orders.close()
    verb, what, rest = order.decode(errors="surrogateescape").split(" ", 2)
    if verb == "sweep":
        sweep(rest, float(what))
    if verb == "read":
        _read(*descriptors)
    set_name("agentd-shim")
    if verb == "start":
        # Either path may hold anything but a NUL.
        directory, _, cgroup = rest.partition("\0")
        shim.run(directory, descriptors[0], NewJob(what, origin, cgroup))
    names, _, directory = rest.partition(" ")
    named = dict(zip(names.split(","), descriptors[1:], strict=False))
    shim.run(directory, descriptors[0], Rescue(named, what == "warden"))


def _read(pipe: int, names: int) -> NoReturn:
    """Read page tables for the guard, which has no time for that. Never returns."""
    set_name("agentd-reader")
    # Who asked may have lost interest: then writing ends us.
    signal(SIGPIPE, SIG_DFL)
    paths = os.pread(names, os.fstat(names).st_size, 0).decode()
    rollups.write(paths.split(" "), pipe)
    os._exit(0)


def main() -> NoReturn:
    """Serve as the warden's command line says; see warden.spawner."""
    orders, umask, soft, hard = map(int, sys.argv[2:6])
    serve(orders, Origin(umask, (soft, hard)), sys.argv[6])
