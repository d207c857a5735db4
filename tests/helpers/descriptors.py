"""What this process holds open."""

from __future__ import annotations

import os

#: gRPC, once a test has loaded it, makes itself another at every fork.
_NOT_OURS = "anon_inode:[eventfd]"


def held() -> frozenset[tuple[int, str]]:
    """Return every open descriptor with what it leads to, but not the look's own."""
    found = set()
    # The listing's own descriptor is closed by the time it is looked at.
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target != _NOT_OURS:
            found.add((int(name), target))
    return frozenset(found)
