"""What a child says, to its end, within a time and a number of bytes."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from typing import IO

_CHUNK_BYTES = 65536


class TooMuchError(Exception):
    """It said more than anybody wants to keep."""


def communicate(
    child: subprocess.Popen[bytes], data: bytes, timeout_s: float, most_bytes: int
) -> tuple[bytes, bytes]:
    """Write `data`, return stdout and stderr of a child that has pipes for all three.

    As Popen.communicate, but of a server that may say anything without end.

    Raises:
        TooMuchError: Both together have more than `most_bytes`; the child may still run.
        subprocess.TimeoutExpired: The time was over; the same.

    """
    assert child.stdin is not None  # noqa: S101  # asked for by the caller
    assert child.stdout is not None  # noqa: S101  # same
    assert child.stderr is not None  # noqa: S101  # same
    deadline_s = time.monotonic() + timeout_s
    out, complaint = bytearray(), bytearray()
    os.set_blocking(child.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdin, selectors.EVENT_WRITE, _Writing(child.stdin, data))
        selector.register(child.stdout, selectors.EVENT_READ, _Reading(child.stdout, out))
        selector.register(child.stderr, selectors.EVENT_READ, _Reading(child.stderr, complaint))
        while selector.get_map():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise subprocess.TimeoutExpired(child.args, timeout_s)
            for key, _ in selector.select(left_s):
                if key.data.is_over():
                    selector.unregister(key.fileobj)
                    key.data.stream.close()
            if len(out) + len(complaint) > most_bytes:
                raise TooMuchError
    child.wait(max(0.0, deadline_s - time.monotonic()))
    return bytes(out), bytes(complaint)


class _Reading:
    """One pipe that is read."""

    def __init__(self, stream: IO[bytes], kept: bytearray) -> None:
        self.stream = stream
        self._kept = kept

    def is_over(self) -> bool:
        chunk = os.read(self.stream.fileno(), _CHUNK_BYTES)
        self._kept += chunk
        return not chunk


class _Writing:
    """The pipe that is written to."""

    def __init__(self, stream: IO[bytes], data: bytes) -> None:
        self.stream = stream
        self._left = memoryview(data)

    def is_over(self) -> bool:
        try:
            self._left = self._left[os.write(self.stream.fileno(), self._left) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            # It reads no more; what it says tells why.
            return True
        return not self._left
