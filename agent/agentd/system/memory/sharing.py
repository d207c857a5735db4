"""Which processes run in one and the same memory: after vfork(2) the child has its parent's.

Both show all of it then, and counted twice a large parent that starts a program would look
twice as large.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cmp_to_key

_SYS_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}
_KCMP_VM = 1
#: What kcmp(2) answers; anything else is an error.
_ORDERS = {0: 0, 1: -1, 2: 1}
_number = _SYS_KCMP.get(os.uname().machine)
_syscall = ctypes.CDLL(None, use_errno=True).syscall


def by_memory(pids: Sequence[int]) -> list[list[int]]:
    """Return the processes in groups of one memory each; a group keeps their order.

    To be asked before they are measured: who shares may stop to (exec), and nobody begins to.
    A microsecond a comparison. Where the kernel does not compare (built without CONFIG_KCMP,
    another user's process) each is alone.
    """
    groups: list[list[int]] = []
    for pid in sorted(pids, key=cmp_to_key(_compare)):
        if groups and _order(groups[-1][0], pid) == 0:
            groups[-1].append(pid)
        else:
            groups.append([pid])
    return groups


def _compare(one: int, other: int) -> int:
    order = _order(one, other)
    return one - other if order is None else order


def _order(one: int, other: int) -> int | None:
    """Order two processes by their memory (kcmp(2)); None: the kernel does not say."""
    if _number is None:
        return None
    return _ORDERS.get(_syscall(_number, one, other, _KCMP_VM, 0, 0))
