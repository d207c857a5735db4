"""Directories and files that are ours alone, and how such a file is replaced.

Whoever else could put a socket or a file there would be obeyed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from agentctl.errors import UnsafeDirectoryError

#: What has to fit behind the directory's name in the path of a socket, see `runtime_dir`.
_LONGEST_NAME_BYTES = 40
#: OpenSSH adds 17 bytes to a control path while it makes the socket (107 - 17, measured).
_LONGEST_CONTROL_PATH_BYTES = 90
#: What ssh takes as it stands; it replaces %h and ${HOME} in the paths of its sockets.
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._+,=@-")


def is_private(directory: str) -> bool:
    """Say whether the directory is there. Raises UnsafeDirectoryError if others can enter it."""
    try:
        check_private(directory)
    except OSError:
        return False
    return True


def check_private(path: str, *, is_file: bool = False) -> None:
    """Raise UnsafeDirectoryError unless the directory, or file, is ours alone; OSError without."""
    status = os.lstat(path)
    is_kind, kind, mode = (
        (stat.S_ISREG, "plain file", "600") if is_file else (stat.S_ISDIR, "directory", "700")
    )
    if not is_kind(status.st_mode):
        raise UnsafeDirectoryError(f"{path} is not a {kind} (a symlink is refused too)")
    if status.st_uid != os.geteuid():
        raise UnsafeDirectoryError(f"{path} belongs to uid {status.st_uid}, not to you")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UnsafeDirectoryError(f"{path} is open to others; run: chmod {mode} {path}")


def replace_file(path: str, data: bytes, *, is_durable: bool = False) -> None:
    """Put `data` in the place of the file, with mode 0600, whole or not at all.

    It survives any process; with `is_durable` a power cut too, as far as rename(2) does.

    Raises:
        OSError: As the kernel reports it; `path` is then unchanged.

    """
    # Two processes may replace one file at once.
    scratch = f"{path}.{os.getpid()}"
    forget_file(scratch)
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if is_durable:
                file.flush()
                os.fsync(descriptor)
        os.rename(scratch, path)
    except OSError:
        forget_file(scratch)
        raise


def forget_file(path: str) -> None:
    """Remove a file or a socket, if it is there."""
    try:
        os.unlink(path)
    except OSError:
        # Gone, or in a directory that is: there is nothing to be found in either.
        pass


def runtime_dir(environ: Mapping[str, str]) -> str:
    """Return the directory of the client's sockets and locks, made now if it is missing.

    It is `$XDG_RUNTIME_DIR/agentctl`; without that variable, or where a path in it would be
    too long for ssh or mean something else to it, `/tmp/agentctl-UID`.

    Raises:
        UnsafeDirectoryError: It is not ours alone, or cannot be made.

    """
    directory = runtime_path(environ)
    if not is_private(directory):
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise UnsafeDirectoryError(
                f"cannot make {directory}: {error.strerror}; set XDG_RUNTIME_DIR to a "
                "directory of yours"
            ) from None
        # Somebody may have been faster: what is there now is looked at again.
        if not is_private(directory):
            raise UnsafeDirectoryError(f"{directory} vanished while it was made; try again")
    return directory


def runtime_path(environ: Mapping[str, str]) -> str:
    """Return where `runtime_dir` is for this environment. Touches nothing."""
    base = environ.get("XDG_RUNTIME_DIR")
    if base and base.startswith("/"):
        directory = f"{base.rstrip('/')}/agentctl"
        longest_bytes = len(os.fsencode(directory)) + 1 + _LONGEST_NAME_BYTES
        if longest_bytes <= _LONGEST_CONTROL_PATH_BYTES and _PLAIN.issuperset(directory):
            return directory
    return f"/tmp/agentctl-{os.geteuid()}"  # noqa: S108  # checked before every use: ours, 0700, no symlink
