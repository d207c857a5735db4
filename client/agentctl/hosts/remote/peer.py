"""The line to the client: lines of JSON after a random mark, wheels, and when to give up."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

_INPUT_WITHIN_S = 120.0
_CHUNK_BYTES = 1 << 20


class SetupError(Exception):
    """What is told to the client instead of "done": its kind decides what it says."""

    def __init__(self, kind: str, text: str, **more: Any) -> None:  # noqa: ANN401  # JSON values
        super().__init__(text)
        self.told = {"event": "error", "kind": kind, "text": text, **more}


class Peer:
    """The client at the other end of stdin and stdout."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._input = sys.stdin.buffer
        # What rc files printed may not have ended its line.
        os.write(sys.stdout.fileno(), b"\n")

    def tell(self, event: str, **more: Any) -> None:  # noqa: ANN401  # JSON values
        """Send one line. A client that is gone is noticed by the watcher."""
        with suppress(BrokenPipeError):
            line = f"{self._mark} {json.dumps({'event': event, **more})}\n"
            os.write(sys.stdout.fileno(), line.encode())

    def line(self) -> dict[str, Any]:
        """Return the next line the client sent. Raises SetupError when it is gone."""
        with _time_limit(_INPUT_WITHIN_S):
            content = self._input.readline()
        if not content.endswith(b"\n"):
            raise SetupError("interrupted", "the link was cut")
        asked: dict[str, Any] = json.loads(content)
        return asked

    def wheels(self, what: str, why: str = "") -> Iterator[bytes]:
        """Ask for wheels and yield the content of each. Raises SetupError."""
        self.tell("need", what=what, why=why)
        for wheel in self.line()["wheels"]:
            content = bytearray()
            while len(content) < wheel["bytes"]:
                with _time_limit(_INPUT_WITHIN_S):
                    part = self._input.read(min(_CHUNK_BYTES, wheel["bytes"] - len(content)))
                if not part:
                    raise SetupError("interrupted", "the link was cut")
                content += part
            if hashlib.sha256(content).hexdigest() != wheel["sha256"]:
                raise SetupError("interrupted", f"{wheel['name']} did not arrive as it was sent")
            yield bytes(content)


def give_up(_number: int, _frame: object) -> NoReturn:
    """Handle a signal by ending what is being done. Raises SetupError."""
    # Once: what is undone afterwards must not be disturbed.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    raise SetupError("interrupted", "it was interrupted")


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
