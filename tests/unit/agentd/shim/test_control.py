"""The shim's control socket: all who may reach it are treated alike."""

from __future__ import annotations

import os
import select
from _socket import socket as c_socket
from pathlib import Path

import pytest

from agentd.core.contract import (
    Adopt,
    Adopted,
    JobPaused,
    JobStopping,
    JobView,
    Message,
    Pause,
    Stop,
    encode,
)
from agentd.core.job import Cause
from agentd.shim.control import Control
from agentd.system import packets
from tests.unit.agentd.system.sandbox import isolated


class Room:
    """A control socket in a directory, which becomes the current one, and those who talk to it.

    It closes its peers with its process, so each test has a process of its own.
    """

    def __init__(self, directory: Path) -> None:
        """Have the warden that forked the shim there from the beginning."""
        os.chdir(directory)
        self.epoll = select.epoll()
        theirs, self.warden = packets.pair()
        self.control = Control(self.epoll, theirs)

    def heard(self) -> list[Message]:
        """Serve all that is there and return what was said."""
        said: list[Message] = []
        while events := self.epoll.poll(0):
            for descriptor, _ in events:
                assert self.control.owns(descriptor)
                said += [message for _, message in self.control.serve(descriptor)]
        return said


def visit() -> c_socket:
    """Connect as a later warden does."""
    return packets.connect(".", "ctl")


def told(peer: c_socket) -> Message | None:
    """Return what was said to a peer."""
    received = packets.receive(peer)
    assert received is not None
    return received[0]


@isolated
def test_whoever_comes_is_heard(tmp_path: Path) -> None:
    """The warden that forked us, and every later one."""
    room = Room(tmp_path)
    later = visit()
    packets.send(room.warden, Pause(7))
    packets.send(later, Stop(7, 1.5, Cause.USER))
    packets.send(later, Adopt())

    said = room.heard()

    assert sorted(map(repr, said)) == sorted(
        map(repr, [Pause(7), Stop(7, 1.5, Cause.USER), Adopt()])
    )


@isolated
def test_an_answer_goes_to_who_asked(tmp_path: Path) -> None:
    """With the descriptors by name."""
    room = Room(tmp_path)
    later = visit()
    room.heard()
    packets.send(later, Adopt())
    null = os.open(os.devnull, os.O_RDONLY)
    answer = Adopted(JobView(7, "running"), ("out",))

    for descriptor, _ in room.epoll.poll(0):
        for peer, _ in room.control.serve(descriptor):
            room.control.send(peer, answer, {"out": null})

    received = packets.receive(later)
    assert received is not None
    assert received[0] == answer
    with pytest.raises(BlockingIOError):
        packets.receive(room.warden)


@isolated
def test_news_goes_to_everybody(tmp_path: Path) -> None:
    """Encoded already or not."""
    room = Room(tmp_path)
    later = visit()
    room.heard()

    room.control.broadcast(JobPaused(7))
    room.control.broadcast_bytes(encode(JobStopping(7, Cause.GUARD)))

    for peer in (room.warden, later):
        assert [told(peer), told(peer)] == [JobPaused(7), JobStopping(7, Cause.GUARD)]


@isolated
def test_who_leaves_is_forgotten(tmp_path: Path) -> None:
    """And whether the first one is still there is known."""
    room = Room(tmp_path)
    later = visit()
    room.heard()
    later.close()
    assert room.heard() == []
    assert room.control.has_first

    packets.send(room.warden, Pause(7))
    room.warden.close()

    assert room.heard() == [Pause(7)]
    assert not room.control.has_first
    room.control.broadcast(JobPaused(7))
    newest = visit()
    packets.send(newest, Adopt())
    assert room.heard() == [Adopt()]


@isolated
def test_a_peer_that_reads_nothing_stalls_nobody(tmp_path: Path) -> None:
    """It misses news; the others do not."""
    room = Room(tmp_path)
    stalled, later = visit(), visit()
    room.heard()

    for _ in range(2000):
        room.control.broadcast(JobPaused(7))
        assert told(later) == JobPaused(7)


@isolated
def test_what_means_nothing_is_skipped(tmp_path: Path) -> None:
    """A newer warden may say what an older shim does not know."""
    room = Room(tmp_path)
    packets.send_bytes(room.warden, b'{"type":"Future"}')
    packets.send_bytes(room.warden, b"noise")
    packets.send(room.warden, Pause(7))

    assert room.heard() == [Pause(7)]


@isolated
def test_the_name_of_the_socket_goes_with_the_shim(tmp_path: Path) -> None:
    """Whoever comes later finds nobody; peers can still be told of the record."""
    room = Room(tmp_path)

    room.control.close()

    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        visit()
    room.control.broadcast(JobPaused(7))
    assert told(room.warden) == JobPaused(7)
    room.control.close()


@isolated
def test_a_shim_without_a_socket_still_hears_its_warden(tmp_path: Path) -> None:
    """No room, or a file system without sockets: only a later warden misses it."""
    (tmp_path / "ctl").mkdir()
    room = Room(tmp_path)

    packets.send(room.warden, Pause(7))

    assert room.heard() == [Pause(7)]
    assert room.control.has_first
    room.control.close()
    assert os.listdir(tmp_path) == ["ctl"]
