"""Private, durable, atomic files."""

from __future__ import annotations

import errno
import os
import stat

from agentd.errors import DiskFullError, SystemCallError, UnsafeDirectoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_REPLACE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def system_error(action: str, error: OSError) -> SystemCallError | DiskFullError:
    """Return the AgentError for `error`, raised while doing `action`."""
    if error.errno in _DISK_FULL:
        return DiskFullError(f"cannot {action}: the disk is full; free some space and try again")
    return SystemCallError(action, error)


def ensure_private_directory(path: str) -> None:
    """Create `path` with mode 0700 (parents too) or check that it is ours alone.

    Raises:
        UnsafeDirectoryError: It is a symlink, not a directory, not ours, or open to others.
        SystemCallError: It cannot be made.

    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
    except OSError as error:
        raise system_error(f"make the directory {path}", error) from error
    check_private_directory(path)


def check_private_directory(path: str) -> None:
    """Check that `path` is a directory and ours alone.

    Raises:
        UnsafeDirectoryError: It is a symlink, not a directory, not ours, or open to others.
        SystemCallError: It cannot be looked at.

    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise system_error(f"look at the directory {path}", error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeDirectoryError(f"{path} is not a directory (a symlink is refused too)")
    if status.st_uid != os.geteuid():
        raise UnsafeDirectoryError(f"{path} belongs to uid {status.st_uid}, not to you")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UnsafeDirectoryError(f"{path} is open to others; run: chmod 700 {path}")


def fsync_directory(path: str) -> None:
    """Make the names in `path` durable (fsync(2) on a directory)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def replace_file(path: str, data: bytes) -> None:
    """Replace `path` by `data` with mode 0600: temp file, rename.

    Not forced to disk: it survives any process, not a power cut.

    Raises:
        OSError: As the kernel reports it; `path` is then unchanged.

    """
    scratch = path + ".tmp"
    descriptor = os.open(scratch, _REPLACE, 0o600)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)
    os.rename(scratch, path)


def write_durable(path: str, data: bytes) -> None:
    """Replace `path` by `data` with mode 0600: temp file, fsync, rename, fsync of the directory.

    Raises:
        OSError: As the kernel reports it; `path` is then unchanged.

    """
    scratch = path + ".tmp"
    descriptor = os.open(scratch, _REPLACE, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(scratch, path)
    fsync_directory(os.path.dirname(path))


def keep_only(wanted: Iterable[int]) -> None:
    """Close every descriptor of this process but 0, 1, 2 and `wanted`."""
    kept = {0, 1, 2, *wanted}
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor not in kept:
            try:
                os.close(descriptor)
            except OSError:
                # The one that listed the directory.
                continue
