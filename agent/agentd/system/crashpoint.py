"""Named points at which a fault test kills a process, exactly there.

With ``AGENTD_CRASH_DIR`` set, `reach("shim.locked")` looks for the file ``shim.locked`` in that
directory; whoever removes it first kills the pids it lists, then itself. Without the
variable a call costs one comparison.
"""

from __future__ import annotations

import os

from agentd.system.signals import SIGKILL

_DIRECTORY = os.environ.get("AGENTD_CRASH_DIR")
#: Whether there is any point at which this process may be killed.
IS_ARMED = _DIRECTORY is not None


def reach(name: str) -> None:
    """Die here if a test asked for it."""
    if _DIRECTORY is None:
        return
    path = f"{_DIRECTORY}/{name}"
    try:
        with open(path, encoding="ascii") as file:
            others = [int(word) for word in file.read().split()]
        os.unlink(path)
    except FileNotFoundError:
        return
    for pid in others:
        os.kill(pid, SIGKILL)
    os.kill(os.getpid(), SIGKILL)
