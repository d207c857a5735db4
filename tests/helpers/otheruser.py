"""A second local user, who wishes the first no good (root only: somebody must become him)."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.wait import is_alive, wait_until

#: The interpreter itself, not that of a virtual environment, which he may not be able to read.
_PYTHON = f"/usr/bin/python{sys.version_info.major}"


@dataclass(frozen=True, slots=True)
class OtherUser:
    """A uid that nobody has, in no group of ours. No account is made: the kernel needs none."""

    uid: int
    #: A directory of his, 0711.
    home: str

    def run(self, *argv: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a program as him, without our environment, to its end."""
        return subprocess.run(
            argv,
            user=self.uid,
            group=self.uid,
            extra_groups=[],
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_s,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def python(
        self, program: str, *words: str, timeout_s: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python program of the standard library as him; `words` are its arguments."""
        return self.run(_PYTHON, "-I", "-c", program, *words, timeout_s=timeout_s)

    def popen(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program as him, with a pipe as stdout; the caller ends and reaps it."""
        return subprocess.Popen(
            argv,
            user=self.uid,
            group=self.uid,
            extra_groups=[],
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )

    def owns(self, path: str) -> None:
        """Hand what stands at `path` to him, links not followed."""
        os.chown(path, self.uid, self.uid, follow_symlinks=False)

    @property
    def env(self) -> dict[str, str]:
        """His environment; nothing of ours is in it."""
        return {"HOME": self.home, "PATH": "/usr/bin:/bin"}


@contextmanager
def other_user() -> Iterator[OtherUser]:
    """Yield a second user with a home of his own; nothing of his is left afterwards."""
    assert os.geteuid() == 0, "needs root: it becomes another user"
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    uid = random.Random(os.urandom(8)).choice(sorted(set(range(30_000, 60_000)) - taken))
    home = tempfile.mkdtemp(prefix="at-other-", dir="/tmp")
    os.chmod(home, 0o711)  # noqa: S103  # nothing of worth is in it, and sockets in it may be found
    user = OtherUser(uid, home)
    user.owns(home)
    try:
        yield user
    finally:
        wait_until(lambda: not _end(uid), what="no process left of the second user")
        shutil.rmtree(home)
        left = [path for path in Path("/tmp").iterdir() if path.lstat().st_uid == uid]
        assert not left, f"the second user left {left}"


def _end(uid: int) -> list[int]:
    named = [int(name) for name in os.listdir("/proc") if name.isdigit() and _owner(name) == uid]
    # Not those that only wait for their parent, a test.
    pids = list(filter(is_alive, named))
    for pid in pids:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
    return pids


def _owner(name: str) -> int:
    try:
        return os.stat(f"/proc/{name}").st_uid
    except OSError:
        return -1
