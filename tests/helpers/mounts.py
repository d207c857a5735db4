"""Small and read-only disks for tests: mounts of our own, in our own namespace if need be."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.helpers.wait import wait_until


def run_in_namespace(item: pytest.Function) -> bool:
    """Run a test that mounts, by another pytest in a new user and mount namespace.

    Returns False, having done nothing, where mounts are allowed already: for root, which the
    test is in that namespace too.
    """
    if os.geteuid() == 0:
        return False
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    pytest_again = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", item.nodeid]
    done = subprocess.run(
        [*own, *pytest_again], cwd=item.config.rootpath, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return True


@contextmanager
def tmpfs(path: str, size_bytes: int) -> Iterator[None]:
    """Mount an empty file system of this size at the directory `path`, private to us."""
    options = f"size={size_bytes},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "agent-test", path], check=True)
    try:
        yield
    finally:
        # Whoever still stands in it keeps it; its name is free at once.
        subprocess.run(["umount", "--lazy", path], check=True)


def set_read_only(path: str, read_only: bool) -> None:  # noqa: FBT001  # the word of mount(8)
    """Make the file system mounted at `path` refuse writes, or take them again."""
    command = ["mount", "-o", f"remount,{'ro' if read_only else 'rw'}", path]
    # Busy for as long as a killed process still has a file open for writing.
    wait_until(
        lambda: subprocess.run(command, check=False, capture_output=True).returncode == 0,
        what=" ".join(command),
    )


def fill(path: str, *, leave_bytes: int = 0) -> str:
    """Fill the file system of `path` but for `leave_bytes`; return the file that does it."""
    ballast = f"{path}/ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        wait_until(lambda: _take_room(descriptor, leave_bytes), what=f"{path} is full")
    finally:
        os.close(descriptor)
    return ballast


def _take_room(descriptor: int, leave_bytes: int) -> bool:
    room = os.fstatvfs(descriptor)
    size_bytes = room.f_bavail * room.f_frsize - leave_bytes
    if size_bytes <= 0:
        return True
    try:
        os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, size_bytes)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    # Somebody else may have taken or given room meanwhile.
    return False
