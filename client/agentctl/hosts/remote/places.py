"""The root directory on the server: who may change it, and which installation is chosen.

Everything lies below the root:

    bin/agentd          the launcher, whose path the client keeps
    nodes/HOSTNAME      one line: the installation that this node uses
    current             the same for a node that has no line: the last one chosen
    VERSION-TAG-DIGEST  one installation each, complete as soon as it has this name
    .new-*  .old-*      what a crash left; swept by the next one who holds the lock

The choice is a line in a file and not a symlink: the agent starts its parts from the path it
was started by, and that must stay the installation it was started from.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agentctl.hosts.remote.peer import Peer, SetupError

_LOCK_WITHIN_S = 180.0
_POLL_S = 0.05
# VERSION-TAG-DIGEST: also where a crash took away what is in it.
_INSTALLATION = re.compile(r"[0-9][^-/]*-cp\d+t?-(?:linux|musl)_[a-z0-9_]+-[0-9a-f]{8}")


def data_root() -> str:
    """Return where installations go: below the user's data home."""
    home = os.environ.get("XDG_DATA_HOME") or ""
    if not home.startswith("/"):
        home = os.path.expanduser("~/.local/share")
    return f"{home}/agentd"


def make_directories(path: str) -> list[str]:
    """Make `path` and what is missing above it; return what was made, deepest first."""
    if os.path.isdir(path):
        return []
    made = make_directories(os.path.dirname(path))
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
        made.insert(0, path)
    return made


def check_ours(root: str) -> None:
    """Raise SetupError if somebody else could put a program there that the user would run."""
    status = os.stat(root)
    if status.st_uid != os.geteuid():
        raise SetupError("denied", f"{root} belongs to uid {status.st_uid}")
    if status.st_mode & 0o022:
        raise SetupError("denied", f"{root} can be written by others; run there: chmod 700 {root}")


def remove_empty(root: str, made: list[str]) -> None:
    """Remove the directories made for nothing, if nothing came into them. The lock is held."""
    with suppress(OSError):
        if made and set(os.listdir(root)) <= {"lock"}:
            os.unlink(f"{root}/lock")
            for path in made:
                os.rmdir(path)


@contextmanager
def locked(root: str, peer: Peer) -> Iterator[bool]:
    """Hold the root's lock; yields False where the file system knows none.

    The root is made anew if it went while somebody else held the lock.
    """
    while True:
        make_directories(root)
        try:
            lock = os.open(f"{root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        try:
            is_taken = _take(lock, peer)
            # Who held it before may have removed it: another one holds what is there now.
            if not is_taken or _is_at(lock, f"{root}/lock"):
                yield is_taken
                return
        finally:
            os.close(lock)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _take(lock: int, peer: Peer) -> bool:
    deadline_s, told = time.monotonic() + _LOCK_WITHIN_S, False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise SetupError("busy", "another one is setting it up") from None
        except OSError:
            # NFS without its lock service: every step is safe without, but nothing is swept.
            return False
        if not told:
            peer.tell("say", text="another one is setting it up; waiting for its end")
            told = True
        time.sleep(_POLL_S)


def sweep(root: str) -> None:
    """Remove what a crash left. The lock is held."""
    for directory in (root, f"{root}/bin", f"{root}/nodes"):
        for name in os.listdir(directory) if os.path.isdir(directory) else ():
            if name.startswith((".new-", ".old-")):
                remove_tree(f"{directory}/{name}")


def remove_tree(path: str) -> None:
    """Remove whatever is there, as far as it can be removed."""
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    else:
        shutil.rmtree(path, ignore_errors=True)


def write(path: str, content: str, mode: int = 0o600) -> None:
    """Put `content` in the place of the file, whole or not at all."""
    scratch = f"{os.path.dirname(path)}/.new-{secrets.token_hex(4)}"
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.rename(scratch, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(scratch)
        raise


def first_line(path: str) -> str | None:
    """Return the first line of a file, None without one."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip() or None
    except OSError:
        return None


def node() -> str:
    """Return the name of this machine, as the launcher reads it."""
    # Where the launcher looks; a host name has no slash.
    return first_line("/proc/sys/kernel/hostname") or "localhost"


class Choice:
    """Which installation this node uses."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._paths = (f"{root}/nodes/{node()}", f"{root}/current")
        self._before = tuple(map(first_line, self._paths))

    @property
    def former(self) -> str | None:
        """What a launcher started before any change."""
        return self._before[0] or self._before[1]

    def set(self, name: str) -> None:
        """Choose from now on."""
        make_directories(f"{self._root}/nodes")
        for path in self._paths:
            write(path, f"{name}\n")

    def restore(self) -> None:
        """Choose as it was."""
        for path, name in zip(self._paths, self._before, strict=True):
            if name is not None:
                write(path, f"{name}\n")
            else:
                with suppress(FileNotFoundError):
                    os.unlink(path)


def installations(root: str) -> list[str]:
    """Return the names of the complete installations."""
    return [name for name in os.listdir(root) if os.path.exists(f"{root}/{name}/install.json")]


def ours(root: str) -> list[str]:
    """Return the names of all that `install` or the search for a Python ever put there.

    In the order in which they may be removed. Where the data home is the state home too, the
    agent's state is beside them.
    """
    complete = {*installations(root)}
    order = {name: place for place, name in enumerate(("bin", "current", "nodes"), -3)}
    order |= {"python": 1, "lock": 2}
    found = [
        name
        for name in os.listdir(root)
        if name in order
        or name in complete
        or name.startswith((".new-", ".old-"))
        or _INSTALLATION.fullmatch(name)
    ]
    return sorted(found, key=lambda name: order.get(name, 0))
