"""The shim's control socket: all who may reach it are treated alike."""

from __future__ import annotations

import os
import select
from _socket import socket as c_socket
from pathlib import Path
from typing import Any

import pytest

from agentd.core.contract import Adopt, Adopted, JobPaused, JobView, Message, Pause, Stop
from agentd.core.job import Cause
from agentd.shim import words
from agentd.shim.control import Control
from agentd.system import packets
from tests.helpers.descriptors import held
from tests.unit.agentd.system.sandbox import isolated

PAUSE = {"type": "Pause", "job_id": 7}
ADOPT = {"type": "Adopt"}
VIEW = words.view(
    job_id=7,
    phase="running",
    started_at_ns=0,
    leader_pid=0,
    leader_start_ticks=0,
    shim_pid=0,
    cause="unknown",
)


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

    def heard(self) -> list[dict[str, Any]]:
        """Do all there is to do and return what was said."""
        said: list[dict[str, Any]] = []
        while events := self.epoll.poll(0):
            for descriptor, _ in events:
                assert self.control.owns(descriptor)
                said += [message for _, message in self.control.serve(descriptor)]
            if self.control.listen_at_ns is not None:
                self.control.listen()
        return said

    def lose_warden(self) -> None:
        """Be left by the warden that forked the shim."""
        self.warden.close()
        self.heard()


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
    packets.send(room.warden, Pause(7))
    assert room.heard() == [PAUSE]
    room.lose_warden()
    second, third = visit(), visit()
    packets.send(second, Stop(7, 1.5, Cause.USER))
    packets.send(third, Adopt())

    said = room.heard()

    stop = {"type": "Stop", "job_id": 7, "grace_s": 1.5, "cause": "user", "reason": ""}
    assert sorted(map(repr, said)) == sorted(map(repr, [stop, ADOPT]))


@isolated
def test_nobody_is_waited_for_while_the_warden_is_there(tmp_path: Path) -> None:
    """The name in the job directory is made when it is needed, and once."""
    room = Room(tmp_path)
    assert room.heard() == []
    assert os.listdir(tmp_path) == []

    room.lose_warden()

    assert os.listdir(tmp_path) == ["ctl"]
    name = os.stat("ctl").st_ino
    later = visit()
    room.heard()
    later.close()
    room.heard()
    assert os.stat("ctl").st_ino == name
    assert room.control.listen_at_ns is None


@isolated
def test_an_answer_goes_to_who_asked(tmp_path: Path) -> None:
    """With the descriptors by name."""
    room = Room(tmp_path)
    room.lose_warden()
    asks, silent = visit(), visit()
    room.heard()
    packets.send(asks, Adopt())
    null = os.open(os.devnull, os.O_RDONLY)

    for descriptor, _ in room.epoll.poll(0):
        for peer, _ in room.control.serve(descriptor):
            room.control.send(peer, words.adopted(VIEW, ["out"]), {"out": null})

    received = packets.receive(asks)
    assert received is not None
    assert received[0] == Adopted(JobView(7, "running"), ("out",))
    assert [os.fstat(descriptor).st_rdev for descriptor in received[1]] == [os.fstat(null).st_rdev]
    with pytest.raises(BlockingIOError):
        packets.receive(silent)


@isolated
def test_news_goes_to_everybody(tmp_path: Path) -> None:
    """To each that is connected."""
    room = Room(tmp_path)
    room.lose_warden()
    peers = visit(), visit()
    room.heard()

    room.control.broadcast(words.paused(7))

    assert [told(peer) for peer in peers] == [JobPaused(7), JobPaused(7)]


@isolated
def test_who_leaves_is_forgotten(tmp_path: Path) -> None:
    """And whether the first one is still there is known."""
    room = Room(tmp_path)
    was_there = room.control.has_first
    packets.send(room.warden, Pause(7))
    room.warden.close()

    assert room.heard() == [PAUSE]
    assert (was_there, room.control.has_first) == (True, False)
    room.control.broadcast(words.paused(7))
    newest = visit()
    packets.send(newest, Adopt())
    assert room.heard() == [ADOPT]


@isolated
def test_a_peer_that_reads_nothing_stalls_nobody(tmp_path: Path) -> None:
    """It misses news; the others do not."""
    room = Room(tmp_path)
    room.lose_warden()
    stalled, later = visit(), visit()
    room.heard()

    for _ in range(2000):
        room.control.broadcast(words.paused(7))
        assert told(later) == JobPaused(7)
    stalled.close()


@isolated
def test_what_means_nothing_is_skipped(tmp_path: Path) -> None:
    """A descriptor that comes with an order is closed; nobody is to send one."""
    room = Room(tmp_path)
    packets.send_bytes(room.warden, b"noise")
    packets.send_bytes(room.warden, b"[1]")
    null = os.open(os.devnull, os.O_RDONLY)
    before = held()
    packets.send(room.warden, Pause(7), [null])

    assert room.heard() == [PAUSE]
    assert held() <= before


@isolated
def test_the_name_of_the_socket_goes_with_the_shim(tmp_path: Path) -> None:
    """Whoever comes later finds nobody; peers can still be told of the record."""
    room = Room(tmp_path)
    room.lose_warden()
    later = visit()
    room.heard()

    room.control.close()

    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        visit()
    room.control.broadcast(words.recorded(7))
    assert told(later) is not None
    room.control.close()


@isolated
def test_a_socket_that_cannot_be_made_is_tried_again(tmp_path: Path) -> None:
    """No room, for example: whoever is there is heard, and a later warden once there is."""
    (tmp_path / "ctl").mkdir()
    room = Room(tmp_path)
    packets.send(room.warden, Pause(7))
    assert room.heard() == [PAUSE]
    room.lose_warden()
    retry_at_ns = room.control.listen_at_ns
    (tmp_path / "ctl").rmdir()

    room.control.listen()

    packets.send(visit(), Pause(7))
    assert room.heard() == [PAUSE]
    assert retry_at_ns is not None
    assert room.control.listen_at_ns is None
    room.control.close()
