"""One run of a hook: started, bounded in time and output, and nothing of it left behind.

Works in a thread of its own. The hook leads a session of its own; its output is read through a
pipe, of which the first `KEPT_BYTES` are kept and the rest is thrown away slowly, so that a hook
that floods waits for us and not we for it. When its program has ended, or its time is up, its
process group gets SIGKILL while the program is not yet reaped, so that no recycled pid can be
hit; then whatever still carries the run's mark in its environment, or hangs below or in a session
of such a process, is looked for and killed, for `SWEEP_S` at most. Processes that have wiped the
mark and left both session and parent stay: that needs a subreaper, which the server is not.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentd.system.process import find_members, send_all

#: Of a run's output.
KEPT_BYTES = 64 << 10
#: How long what a hook left behind is hunted.
SWEEP_S = 2.0
#: Between looks at whether the server ends.
_LOOK_S = 0.25
#: Between two reads of what is thrown away: 6 MB/s.
_PAUSE_S = 0.01
#: By this processes of one job, or of one hook, are found; see `agentd.system.proc`.
_MARK = "AGENTCTL_JOB_UID"


@dataclass(frozen=True, slots=True)
class HookRun:
    """What is to be run, and why."""

    #: Name of its key in the configuration.
    hook: str
    argv: tuple[str, ...]
    timeout_s: float
    #: Added to the agent's own environment.
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went."""

    #: "" for success; else one line: "exited 3", "timed out after 30 s", …
    complaint: str
    output: bytes
    #: More was written than was kept.
    cut: bool = False


def run_hook(run: HookRun, is_closing: Callable[[], bool]) -> Outcome:
    """Run one hook to its end, at most its timeout and `SWEEP_S`. Never raises for what it does."""
    mark = uuid.uuid4().hex
    try:
        process = _start(run, mark)
    except (OSError, ValueError) as error:
        return Outcome(f"cannot be started: {error}", b"")
    reader = _Reader(process)
    ended, trouble = False, ""
    try:
        ended = reader.read_until_end(time.monotonic() + run.timeout_s, is_closing)
    except OSError as error:
        trouble = f"cannot be watched: {error}"
    finally:
        # First, so that the hunt has a descriptor to look around with.
        reader.close()
        left = _end(process, mark)
    complaint = trouble or _complaint(process, run.timeout_s, ended=ended, closing=is_closing())
    if left:
        complaint = f"{complaint or 'ended'}; {left} processes of it cannot be killed"
    return Outcome(complaint, bytes(reader.kept), reader.cut)


def _start(run: HookRun, mark: str) -> subprocess.Popen[bytes]:
    home = os.path.expanduser("~")
    return subprocess.Popen(
        run.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        cwd=home if os.path.isdir(home) else "/",
        env={**os.environ, **run.facts, _MARK: mark},
        start_new_session=True,
    )


def _complaint(
    process: subprocess.Popen[bytes], timeout_s: float, *, ended: bool, closing: bool
) -> str:
    if not ended:
        return "killed: the agent ends" if closing else f"timed out after {timeout_s:g} s"
    code = process.returncode
    if code == 0:
        return ""
    return f"exited {code}" if code > 0 else f"ended by signal {-code}"


def _end(process: subprocess.Popen[bytes], mark: str) -> int:
    """Kill and reap what is left of a run; return how many live on after `SWEEP_S`."""
    deadline_s = time.monotonic() + SWEEP_S
    _kill_group(process)
    left: set[int] = set()
    try:
        left.update(_sweep(mark, deadline_s))
    finally:
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            # Another user's by now (sudo). `subprocess` reaps it at the start of a later hook.
            left.add(process.pid)
    return len(left)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        # The unreaped leader keeps the number; without living members there is nobody to hit.
        return
    except PermissionError:
        # All of it is another user's by now, the unreaped leader as well: a hook that is sudo.
        return


def _sweep(mark: str, deadline_s: float) -> list[int]:
    """Kill what carries the mark, again and again; return what is left at the deadline."""
    while found := find_members(mark, None):
        send_all(found, signal.SIGKILL)
        if time.monotonic() > deadline_s:
            return found
        time.sleep(_PAUSE_S)
    return []


class _Reader:
    """Reads a hook's output until its program has ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Nothing is opened yet but its pipe, which is to be closed with `close`."""
        assert process.stdout is not None  # noqa: S101  # asked for in `_start`
        self.kept = bytearray()
        self.cut = False
        self._pid = process.pid
        self._pipe = process.stdout
        self._poll = select.poll()
        self._open = True

    def read_until_end(self, deadline_s: float, is_closing: Callable[[], bool]) -> bool:
        """Return whether the program ended by itself in time. Raises OSError: no descriptors."""
        # Readable once it has ended, and reaps nothing (pidfd_open(2)).
        end = os.pidfd_open(self._pid)
        try:
            os.set_blocking(self._pipe.fileno(), False)
            self._poll.register(self._pipe.fileno(), select.POLLIN)
            self._poll.register(end, select.POLLIN)
            return self._read_until(end, deadline_s, is_closing)
        finally:
            os.close(end)

    def _read_until(self, end: int, deadline_s: float, is_closing: Callable[[], bool]) -> bool:
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or is_closing():
                return False
            ready = dict(self._poll.poll(min(left_s, _LOOK_S) * 1000))
            if self._pipe.fileno() in ready:
                self._take()
            if end in ready:
                while self._take() and not self.cut:
                    continue
                return True

    def _take(self) -> bool:
        """Read once; return whether there may be more."""
        if not self._open:
            return False
        try:
            data = os.read(self._pipe.fileno(), KEPT_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._poll.unregister(self._pipe.fileno())
            self._open = False
            return False
        room = KEPT_BYTES - len(self.kept)
        self.kept += data[:room]
        if len(data) > room:
            self.cut = True
            time.sleep(_PAUSE_S)
        return True

    def close(self) -> None:
        """Let go of the pipe."""
        self._pipe.close()
