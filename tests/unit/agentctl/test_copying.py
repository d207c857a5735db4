"""Bytes of a log onto a descriptor."""

from __future__ import annotations

import os
import threading

import pytest

from agentctl.commands.copying import write_all


def test_a_full_non_blocking_pipe_is_waited_for() -> None:
    """Somebody else's terminal may be non-blocking; no byte is lost on it."""
    data = os.urandom(300_000)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    received = bytearray()

    def read() -> None:
        while piece := os.read(reading, 65536):
            received.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    write_all(writing, data)
    os.close(writing)
    reader.join(10)
    os.close(reading)
    assert bytes(received) == data


def test_a_pipe_nobody_reads_is_an_error() -> None:
    """Which ends the command."""
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        write_all(writing, b"x")
    os.close(writing)
