"""The double fork that makes a shim (daemon(7), steps 4 to 8).

The first child leads a new session and ends at once; the second, no session leader, can
never acquire a controlling terminal, and its parent becomes the warden, the next subreaper.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeVarTuple

    Arguments = TypeVarTuple("Arguments")

_CRASHED = 70


def double_fork(run: Callable[[*Arguments], NoReturn], *arguments: *Arguments) -> int:
    """Call `run` in a grandchild. Returns the pid of the child in between, to be reaped."""
    between = os.fork()
    if between:
        return between
    # Nothing of this may ever return into the caller's loop.
    try:
        os.setsid()
        if os.fork() == 0:
            run(*arguments)
    finally:
        os._exit(_CRASHED)
