"""The line to the client: lines of JSON after a random mark, wheels, and when to give up."""

from __future__ import annotations

import hashlib
import io
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

#: The question, and each part of a wheel: however slow the line is, something comes.
_INPUT_WITHIN_S = 120.0
#: The client may have to download first, for which it gives itself 300 s.
_ANSWER_WITHIN_S = 600.0
_BEAT_EVERY_S = 10.0
_CHUNK_BYTES = 1 << 20
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGPIPE)


class SetupError(Exception):
    """What is told to the client instead of "done": its kind decides what it says."""

    def __init__(self, kind: str, text: str, **more: Any) -> None:  # noqa: ANN401  # JSON values
        super().__init__(text)
        self.told = {"event": "error", "kind": kind, "text": text, **more}


class Peer:
    """The client at the other end of stdin and stdout."""

    def __init__(self, mark: str, users_umask: int) -> None:
        self._mark = mark
        self._writing = threading.Lock()
        #: What the session began with; the agent, and so its jobs, get it too.
        self.users_umask = users_umask
        if not isinstance(sys.stdin.buffer, io.BufferedReader):
            raise AssertionError("this program came through it")
        self._input = sys.stdin.buffer
        # What rc files printed may not have ended its line.
        os.write(sys.stdout.fileno(), b"\n")

    def tell(self, event: str, **more: Any) -> None:  # noqa: ANN401  # JSON values
        """Send one line. A client that is gone is noticed by the watcher."""
        with suppress(BrokenPipeError):
            line = f"{self._mark} {json.dumps({'event': event, **more})}\n"
            with self._writing:
                os.write(sys.stdout.fileno(), line.encode())

    def keep_talking(self) -> None:
        """Tell again and again that this process lives; for a thread of its own."""
        while True:
            time.sleep(_BEAT_EVERY_S)
            self.tell("beat")

    def line(self, within_s: float = _INPUT_WITHIN_S) -> dict[str, Any]:
        """Return the next line the client sent. Raises SetupError when it is gone."""
        with _time_limit(within_s):
            content = self._input.readline()
        if not content.endswith(b"\n"):
            raise SetupError("interrupted", "the link was cut")
        asked: dict[str, Any] = json.loads(content)
        return asked

    def wheels(self, what: str, why: str = "") -> Iterator[bytes]:
        """Ask for wheels and yield the content of each. Raises SetupError."""
        self.tell("need", what=what, why=why)
        for wheel in self.line(_ANSWER_WITHIN_S)["wheels"]:
            content = bytearray()
            while len(content) < wheel["bytes"]:
                with _time_limit(_INPUT_WITHIN_S):
                    part = self._input.read1(min(_CHUNK_BYTES, wheel["bytes"] - len(content)))
                if not part:
                    raise SetupError("interrupted", "the link was cut")
                content += part
            if hashlib.sha256(content).hexdigest() != wheel["sha256"]:
                raise SetupError("interrupted", f"{wheel['name']} did not arrive as it was sent")
            yield bytes(content)


def give_up(_number: int, _frame: object) -> NoReturn:
    """Handle a signal by ending what is being done. Raises SetupError."""
    # Once: what is undone afterwards must not be disturbed.
    ignore_signals()
    raise SetupError("interrupted", "it was interrupted")


def ignore_signals() -> None:
    """Let nothing but SIGKILL come between from here on."""
    for number in _SIGNALS:
        # Not SIG_IGN: an agent that is started from here would keep that, and its jobs too.
        signal.signal(number, _nothing)


def _nothing(_number: int, _frame: object) -> None:
    pass


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def watch_for_hangup() -> None:
    """End this process' work when the client goes: Ctrl-C over there closes stdin here."""
    poll = select.poll()
    poll.register(0, select.POLLHUP | select.POLLRDHUP | select.POLLERR)
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)
