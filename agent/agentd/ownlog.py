"""`agentd log`: the agent's own logs on stdout, for agentctl, here and through ssh.

Asks nobody: the logs of an agent that does not answer, or is gone, are the ones that are wanted.
Each file stands below its name, as tail(1) prints several. With a mark the first line is that
alone: whatever rc files print comes before it.
"""

from __future__ import annotations

import os
import select
import stat

from agentd.system.files import system_error, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK_EVERY_MS = 200
_BLOCK_BYTES = 64 << 10
_STDIN = 0
_STDOUT = 1
# A pipe or a link of that name is nobody's log.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def show(log_dir: str, lines: int, *, follow: bool, mark: str = "") -> bool:
    """Print the last `lines` lines of each log; with `follow` go on until nobody reads.

    Returns False, having printed nothing, if there is none to print or follow.

    Raises:
        AgentError: A log cannot be read.
        OSError: Stdout takes no more.

    """
    # Through ssh stdin alone tells that whoever asked is gone.
    out = _Output((_STDIN,) if mark else ())
    logs = _opened(_paths(log_dir), lines)
    if not logs:
        return False
    if mark:
        write_all(_STDOUT, f"{mark}\n".encode())
    for log in logs:
        out.put(log, log.last if follow else log.last + log.unfinished)
    while follow and not out.is_gone(_LOOK_EVERY_MS):
        known = {log.path for log in logs}
        logs += _opened([path for path in _paths(log_dir) if path not in known], None)
        for log in logs:
            for block in log.new():
                out.put(log, block)
    return True


def _paths(log_dir: str) -> list[str]:
    try:
        names = sorted(os.listdir(log_dir))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise system_error(f"look into {log_dir}", error) from error
    return [f"{log_dir}/{name}" for name in names if name.endswith(".log")]


def _opened(paths: list[str], lines: int | None) -> list[_Log]:
    return [log for log in (_Log(path, lines) for path in paths) if log.is_there]


class _Output:
    """Stdout, and whose lines stand there last."""

    def __init__(self, ends: tuple[int, ...]) -> None:
        """Take an end of what can be read from `ends` for a hang-up too."""
        self._below: str | None = None
        self._poll = select.poll()
        for number in ends:
            self._poll.register(number, select.POLLIN)
        # A hang-up is told whatever is asked for (poll(2)).
        self._poll.register(_STDOUT, 0)

    def put(self, log: _Log, data: bytes) -> None:
        """Write whole lines below the log's name."""
        if self._below == log.path:
            write_all(_STDOUT, data)
            return
        blank = "\n" if self._below is not None else ""
        self._below = log.path
        title = f"{blank}==> {os.path.basename(log.path)} <==\n"
        write_all(_STDOUT, title.encode("utf-8", "surrogateescape") + data)

    def is_gone(self, wait_ms: int) -> bool:
        """Say, after a while, whether nobody can read it any more."""
        return bool(self._poll.poll(wait_ms))


class _Log:
    """One file: its end as it was found, and what is added later."""

    def __init__(self, path: str, lines: int | None) -> None:
        """Begin `lines` lines before the end of `path`; None: with its first."""
        self.path = path
        self._descriptor, self._begun = _open(path), b""
        #: The lines asked for, each whole.
        self.last = b""
        if self._descriptor is not None and lines is not None:
            found, newline, self._begun = _last_lines(self._descriptor, lines).rpartition(b"\n")
            self.last = found + newline

    @property
    def is_there(self) -> bool:
        """Whether there is such a file."""
        return self._descriptor is not None

    @property
    def unfinished(self) -> bytes:
        """The line whose end is not yet written, with one; empty if there is none."""
        return self._begun and self._begun + b"\n"

    def new(self) -> Iterator[bytes]:
        """Yield the whole lines added since; a file that took its place is read from the start."""
        yield from self._rest()
        if self._descriptor is None or self._was_replaced():
            successor = _open(self.path)
            if successor is None:
                return
            # What came between the two looks.
            yield from self._rest()
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor, self._begun = successor, b""
            yield from self._rest()

    def _rest(self) -> Iterator[bytes]:
        while self._descriptor is not None and (block := os.read(self._descriptor, _BLOCK_BYTES)):
            lines, newline, self._begun = (self._begun + block).rpartition(b"\n")
            if newline:
                yield lines + newline

    def _was_replaced(self) -> bool:
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return self._descriptor is not None and not os.path.samestat(
            there, os.fstat(self._descriptor)
        )


def _open(path: str) -> int | None:
    try:
        descriptor = os.open(path, _OPEN)
    except FileNotFoundError:
        # Rotated just now.
        return None
    except OSError as error:
        raise system_error(f"read {path}", error) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _last_lines(descriptor: int, count: int) -> bytes:
    """Return the last lines, and leave the descriptor at the end of them."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    begin, found = end, b""
    # One newline more than lines: the one that ends the line before them.
    while begin > 0 and found.count(b"\n") <= count:
        size = min(_BLOCK_BYTES, begin)
        begin -= size
        found = os.pread(descriptor, size, begin) + found
    lines = found.splitlines(keepends=True)
    return b"".join(lines[len(lines) - min(count, len(lines)) :])
