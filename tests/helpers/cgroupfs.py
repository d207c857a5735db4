"""Cgroups for tests: a real one with a memory limit, and plain files that stand for one."""

from __future__ import annotations

import ctypes
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.wait import wait_until

_ROOT = "/sys/fs/cgroup"
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000


@contextmanager
def limited(limit_bytes: int) -> Iterator[str]:
    """Yield a cgroup whose processes the kernel kills beyond that; v1 or v2, as root."""
    is_unified = os.path.exists(f"{_ROOT}/cgroup.controllers")
    path = f"{_ROOT if is_unified else f'{_ROOT}/memory'}/agent-test-{secrets.token_hex(4)}"
    os.mkdir(path)
    try:
        limits = (
            (("memory.max", limit_bytes), ("memory.swap.max", 0))
            if is_unified
            else (("memory.limit_in_bytes", limit_bytes),)
        )
        for name, value in limits:
            Path(path, name).write_text(str(value), encoding="ascii")
        yield path
    finally:
        wait_until(
            lambda: not Path(path, "cgroup.procs").read_text(encoding="ascii"),
            what=f"nobody in {path}",
        )
        os.rmdir(path)


def stand_in(path: Path, *, peak_bytes: int = 0, events: str = "") -> None:
    """Make a directory of files that look like the cgroup of a job, and keep what is written."""
    path.mkdir(parents=True)
    for name in ("memory.max", "memory.oom.group", "cgroup.procs"):
        (path / name).touch()
    (path / "memory.peak").write_text(f"{peak_bytes}\n", encoding="ascii")
    (path / "memory.events").write_text(events, encoding="ascii")


def mount_cgroup2(path: Path) -> str:
    """Mount the kernel's v2 hierarchy and return a new cgroup in it; as root.

    The mount goes with the calling process, which gets a namespace of its own; the cgroup is
    the caller's to remove.
    """
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_CLONE_NEWNS) == 0
    assert libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
    assert libc.mount(b"none", os.fsencode(path), b"cgroup2", 0, None) == 0
    own = f"{path}/agent-test-{secrets.token_hex(4)}"
    os.mkdir(own)
    return own
