"""The warden's end of the line to its server, over a real socket."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.contract import JobPaused, Message, Pause, Ready, Refused, encode
from agentd.warden.lines import MAX_BACKLOG_BYTES, LineChannel
from tests.unit.agentd.system.sandbox import fork, isolated

#: Fills a socket's buffer with a few of them.
LONG = Refused(7, "Launch", "x" * 100_000)
MESSAGES = st.lists(
    st.builds(JobPaused, st.integers(1, 10**9))
    | st.builds(Refused, st.integers(1, 99), st.just("Stop"), st.text(max_size=60)),
    max_size=8,
)


class Line:
    """A channel and the server's raw end of it."""

    def __init__(self) -> None:
        """Connect both."""
        ours, self.server = socket.socketpair()
        self.channel = LineChannel(ours)
        self.server.settimeout(10)

    def close(self) -> None:
        """Close both."""
        self.channel.close()
        self.server.close()


@pytest.fixture(name="line")
def _line() -> Iterator[Line]:
    """Yield a line; afterwards both ends are closed."""
    line = Line()
    yield line
    line.close()
    assert line.server.fileno() == line.channel.fileno() == -1


def lines(*messages: Message) -> bytes:
    """Return the messages as they travel."""
    return b"".join(encode(message) + b"\n" for message in messages)


@given(MESSAGES, st.lists(st.integers(1, 40), min_size=1))
def test_messages_arrive_whole_whatever_pieces_they_come_in(
    messages: list[Message], sizes: list[int]
) -> None:
    """A line may be cut anywhere, and many may come at once."""
    line = Line()
    data = lines(*messages)
    heard: list[Message | None] = []

    while data:
        for size in sizes:
            line.server.sendall(data[:size])
            data = data[size:]
            heard += line.channel.receive()

    assert heard == messages
    assert list(line.channel.receive()) == []
    line.close()


@pytest.mark.parametrize(
    "noise", [b"", b"{", b"[]", b'{"type":"Future"}', b'{"type":"Pause"}', b"\xff\xfe", b"\0"]
)
def test_a_line_that_means_nothing_is_skipped(line: Line, noise: bytes) -> None:
    """A newer server may say what this warden does not know."""
    line.server.sendall(lines(Pause(1)) + noise + b"\n" + lines(Pause(2)))

    assert list(line.channel.receive()) == [Pause(1), Pause(2)]


def test_the_end_comes_after_all_that_was_said(line: Line) -> None:
    """A line that was cut by it counts for nothing."""
    line.server.sendall(lines(Ready("/run/agent.sock")) + lines(Pause(7))[:-4])
    line.server.close()

    assert list(line.channel.receive()) == [Ready("/run/agent.sock")]
    assert list(line.channel.receive()) == [None]
    assert list(line.channel.receive()) == [None]


def test_a_server_that_ends_with_something_unread_has_said_what_it_said(line: Line) -> None:
    """The kernel reports a reset, and that is an end as well."""
    line.channel.send(Pause(1))
    line.server.sendall(lines(Pause(2)))
    line.server.close()

    assert list(line.channel.receive()) == [Pause(2)]
    assert list(line.channel.receive()) == [None]


def test_what_is_sent_arrives_as_lines(line: Line) -> None:
    """At once, if there is room."""
    line.channel.send(Pause(1))
    line.channel.send(JobPaused(2))

    assert line.server.recv(1000) == lines(Pause(1), JobPaused(2))
    assert not line.channel.has_backlog


def test_a_server_that_reads_nothing_blocks_nobody(line: Line) -> None:
    """What it does not take waits, and is sent when there is room: whole and in order."""
    sent: list[Message] = []
    while not line.channel.has_backlog:
        sent.append(LONG)
        line.channel.send(LONG)
    sent.append(Pause(7))
    line.channel.send(Pause(7))
    assert not line.channel.is_stuck

    data = b""
    while len(data) < len(lines(*sent)):
        data += line.server.recv(1 << 20)
        line.channel.flush()

    assert data == lines(*sent)
    assert not line.channel.has_backlog


def test_what_waits_is_bounded(line: Line) -> None:
    """Then the server is stuck, and its warden replaces it."""
    sent = 0
    while not line.channel.is_stuck:
        line.channel.send(LONG)
        sent += len(lines(LONG))

    assert sent < MAX_BACKLOG_BYTES + (4 << 20)


def test_what_waits_for_a_server_that_is_gone_is_dropped(line: Line) -> None:
    """Its successor learns everything from the files."""
    while not line.channel.has_backlog:
        line.channel.send(LONG)
    line.server.close()

    line.channel.flush()
    left = [line.channel.has_backlog]
    line.channel.send(Pause(7))
    left.append(line.channel.has_backlog)

    assert left == [False, False]


@isolated
def test_sending_to_nobody_raises_no_signal() -> None:
    """The warden lives on, whatever SIGPIPE would do."""
    line = Line()
    line.server.close()

    def send() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        line.channel.send(Pause(7))
        line.channel.send(Pause(7))

    assert os.waitpid(fork(send), 0)[1] == 0
