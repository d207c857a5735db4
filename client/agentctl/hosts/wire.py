"""The pipes to a program on the server, with an end to everything: lines, silence, amounts."""

from __future__ import annotations

import os
import select
import subprocess
import time
from dataclasses import dataclass
from typing import IO

from agentctl.errors import AgentctlError, HostUnreachableError, TryAgainError

_CHUNK_BYTES = 1 << 16
#: How often what ssh says on stderr is measured.
_LOOK_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a server may ask of us."""

    #: Without a byte in either direction; what works there says so every 10 s.
    silence_s: float = 60.0
    #: For all of it. Slow lines take minutes for the wheels; a file system that hangs has no end.
    all_s: float = 3600.0
    #: For the server to undo what it was doing, once nobody asks any more.
    end_s: float = 20.0
    line_bytes: int = 1 << 20
    #: Everything that is said, rc files and ssh's complaints included.
    said_bytes: int = 4 << 20


class Wire:
    """The two pipes of a running child, which gets as much as it takes and tells lines."""

    def __init__(
        self, child: subprocess.Popen[bytes], complaint: IO[bytes], name: str, limits: Limits
    ) -> None:
        """Take over the pipes of `child`, whose stderr goes to the file `complaint`."""
        if child.stdin is None or child.stdout is None:
            raise AssertionError("both are pipes")
        self._stdin = child.stdin.fileno()
        self._stdout = child.stdout.fileno()
        for descriptor in (self._stdin, self._stdout):
            os.set_blocking(descriptor, False)
        self._complaint = complaint.fileno()
        self._name = name
        self._limits = limits
        self._deadline_s = time.monotonic() + limits.all_s
        self._silent_since_s = time.monotonic()
        self._buffer = bytearray()
        self._said_bytes = 0
        self._is_over = False

    def send(self, *parts: bytes) -> None:
        """Send all of it, listening meanwhile. A program that has ended says by that why.

        Raises:
            AgentctlError: A limit was reached.

        """
        self._silent_since_s = time.monotonic()
        for part in parts:
            rest = memoryview(part)
            while rest:
                if not self._wait(select.POLLOUT):
                    continue
                try:
                    sent = os.write(self._stdin, rest[:_CHUNK_BYTES])
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    return
                self._silent_since_s = time.monotonic()
                rest = rest[sent:]

    def line(self) -> bytes | None:
        """Return the next line, or what stands of it at the end; None after that.

        Raises:
            AgentctlError: A limit was reached.

        """
        self._silent_since_s = time.monotonic()
        while True:
            end = self._buffer.find(b"\n")
            if end < 0 and len(self._buffer) > self._limits.line_bytes:
                raise self._too_much()
            if end >= 0 or (self._is_over and self._buffer):
                end = end if end >= 0 else len(self._buffer) - 1
                line = bytes(self._buffer[: end + 1])
                del self._buffer[: end + 1]
                return line
            if self._is_over:
                return None
            self._wait(0)

    def _wait(self, wanted: int) -> bool:
        """Wait for a byte from there, or until stdin takes one if that is wanted; say which."""
        self._check()
        poll = select.poll()
        if not self._is_over:
            poll.register(self._stdout, select.POLLIN)
        if wanted:
            poll.register(self._stdin, wanted)
        ready = dict(poll.poll(self._patience_s() * 1000))
        if self._stdout in ready:
            self._read()
        return self._stdin in ready

    def _read(self) -> None:
        try:
            content = os.read(self._stdout, _CHUNK_BYTES)
        except BlockingIOError:
            return
        self._is_over = not content
        self._silent_since_s = time.monotonic()
        self._buffer += content
        self._said_bytes += len(content)

    def _patience_s(self) -> float:
        silent_until_s = self._silent_since_s + self._limits.silence_s
        left_s = min(self._deadline_s, silent_until_s) - time.monotonic()
        return max(0.0, min(_LOOK_EVERY_S, left_s + 0.01))

    def _check(self) -> None:
        now_s = time.monotonic()
        if now_s > self._deadline_s:
            raise TryAgainError(
                f"the work on {self._name} was not done within {self._limits.all_s:.0f} s; see "
                "whether its disks hang, then run the same command again"
            )
        if now_s > self._silent_since_s + self._limits.silence_s:
            raise TryAgainError(
                f"{self._name} has said nothing for {self._limits.silence_s:.0f} s; see whether "
                "it hangs, then run the same command again"
            )
        complained_bytes = os.fstat(self._complaint).st_size
        if self._said_bytes + complained_bytes > self._limits.said_bytes:
            raise self._too_much()

    def _too_much(self) -> AgentctlError:
        return HostUnreachableError(
            f"{self._name} says too much that is no answer; see what the start-up files of its "
            "login shell print, then run the same command again"
        )
