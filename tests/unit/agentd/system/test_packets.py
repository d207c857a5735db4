"""Packets with descriptors over real sockets."""

from __future__ import annotations

import os
import signal
from _socket import socket as c_socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.core.contract import Adopt, Adopted, JobPaused, JobView, Message, Pause, Refused
from agentd.system import packets
from tests.helpers.descriptors import held
from tests.helpers.wait import wait_until
from tests.unit.agentd.system.sandbox import fork, hang, isolated

Pair = tuple[c_socket, c_socket]


@pytest.fixture(name="pair")
def _pair() -> Iterator[Pair]:
    """Yield two connected ends; afterwards no descriptor is left open that was not before."""
    before = held()
    ends = packets.pair()
    yield ends
    for end in ends:
        end.close()
    assert held() <= before


def got(source: c_socket) -> tuple[Message | None, list[int]]:
    """Return what has arrived; the end of file fails the test."""
    received = packets.receive(source)
    assert received is not None
    return received


def test_each_message_arrives_whole_and_in_order(pair: Pair) -> None:
    """However much is sent before anything is read."""
    ours, theirs = pair
    sent: list[Message] = [JobPaused(job_id) for job_id in range(50)]

    for message in sent:
        assert packets.send(ours, message)

    assert [got(theirs)[0] for _ in sent] == sent
    with pytest.raises(BlockingIOError):
        packets.receive(theirs)


def test_a_long_message_arrives_whole(pair: Pair) -> None:
    """A reason of many kilobytes."""
    message = Refused(7, "Launch", "ä" * 9000)

    assert packets.send(pair[0], message)

    assert got(pair[1])[0] == message


def test_descriptors_travel_with_their_message(pair: Pair) -> None:
    """In order, and what is written into the one comes out of the other."""
    ours, theirs = pair
    read_end, write_end = os.pipe()
    message = Adopted(JobView(7, "running"), ("out", "err"))

    assert packets.send(ours, message, (read_end, write_end))

    received, descriptors = got(theirs)
    assert received == message
    os.write(descriptors[1], b"through")
    assert os.read(descriptors[0], 100) == b"through"
    for descriptor in (read_end, write_end, *descriptors):
        os.close(descriptor)


def test_received_descriptors_are_not_handed_on_to_programs(pair: Pair) -> None:
    """Close-on-exec from the first moment."""
    null = os.open(os.devnull, os.O_RDONLY)
    packets.send(pair[0], Adopt(), (null,))

    _, (descriptor,) = got(pair[1])

    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    os.close(null)


@pytest.mark.parametrize(
    "packet", [b'{"type":"Future"}', b"no JSON", b"[]", b'{"type":"Pause"}', b"\xff"]
)
def test_a_packet_that_means_nothing_is_skipped_and_its_descriptors_closed(
    pair: Pair, packet: bytes
) -> None:
    """A newer warden may send to an older shim what it does not know."""
    ours, theirs = pair
    read_end, write_end = os.pipe()
    packets.send_bytes(ours, packet, (write_end,))
    os.close(write_end)
    packets.send(ours, Pause(7))

    assert got(theirs) == (None, [])

    assert os.read(read_end, 1) == b"", "somebody still holds the write end"
    assert got(theirs) == (Pause(7), [])
    os.close(read_end)


def test_what_was_sent_before_the_end_is_read_before_the_end(pair: Pair) -> None:
    """Then the end of file, as often as asked."""
    ours, theirs = pair
    packets.send(ours, JobPaused(7))
    ours.close()

    assert got(theirs)[0] == JobPaused(7)
    assert packets.receive(theirs) is None
    assert packets.receive(theirs) is None


def test_what_was_sent_is_read_although_the_sender_left_something_unread(pair: Pair) -> None:
    """A shim killed with an order in its queue: the kernel reports a reset before the rest."""
    ours, theirs = pair
    null = os.open(os.devnull, os.O_RDONLY)
    packets.send(ours, Adopted(JobView(7, "starting"), ("out",)), (null,))
    packets.send(ours, JobPaused(7))
    packets.send(theirs, Pause(7))
    ours.close()

    message, descriptors = got(theirs)

    assert isinstance(message, Adopted)
    assert len(descriptors) == 1
    assert got(theirs)[0] == JobPaused(7)
    assert packets.receive(theirs) is None
    for descriptor in (null, *descriptors):
        os.close(descriptor)


@isolated
def test_what_a_killed_process_had_sent_stays_readable() -> None:
    """A descriptor that only it held too: it lives on in the packet."""
    ours, theirs = packets.pair()

    def send_and_hang() -> None:
        read_end, write_end = os.pipe()
        os.write(write_end, b"last words")
        packets.send(theirs, Adopted(JobView(7, "starting"), ("out",)), (read_end,))
        hang()

    child = fork(send_and_hang)
    theirs.close()
    packets.send(ours, Pause(7))
    wait_until(lambda: Path(f"/proc/{child}/wchan").read_text(encoding="ascii") != "0")
    received: list[tuple[Message | None, list[int]]] = []

    def has_arrived() -> bool:
        try:
            received.append(got(ours))
        except BlockingIOError:
            return False
        return True

    wait_until(has_arrived, what="the packet")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    assert os.read(received[0][1][0], 100) == b"last words"
    assert packets.receive(ours) is None


def test_a_peer_that_reads_nothing_blocks_nobody(pair: Pair) -> None:
    """Past its buffer a message is refused, whole; with room again the next one goes."""
    ours, theirs = pair
    sent = 0
    while packets.send(ours, JobPaused(sent)):
        sent += 1

    assert not packets.send(ours, JobPaused(sent), (0,))
    assert [got(theirs)[0] for _ in range(sent)] == [JobPaused(number) for number in range(sent)]
    assert packets.send(ours, Pause(7))
    assert got(theirs)[0] == Pause(7)


def test_a_peer_that_is_gone_is_told_by_the_answer(pair: Pair) -> None:
    """No exception, no SIGPIPE, with descriptors or without."""
    pair[1].close()

    assert not packets.send(pair[0], Pause(7))
    assert not packets.send(pair[0], Pause(7), (0,))


@isolated
def test_sending_to_nobody_raises_no_signal() -> None:
    """Where SIGPIPE has its default action, the process lives on."""
    ours, theirs = packets.pair()
    theirs.close()
    child = fork(
        lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL),
        lambda: packets.send(ours, Pause(7)),
        lambda: packets.send(ours, Pause(7), (0,)),
    )

    assert os.waitpid(child, 0)[1] == 0


def deep(directory: Path) -> str:
    """Return a directory whose path is longer than a unix socket's may be."""
    path = directory / ("d" * 200) / ("e" * 200)
    path.mkdir(parents=True)
    return str(path)


PLACES: dict[str, Callable[[Path], str]] = {"short": str, "long": deep}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_listener_is_reached_however_long_its_path(
    tmp_path: Path, place: Callable[[Path], str]
) -> None:
    """Both directions carry packets; each side learns the other's end."""
    directory = place(tmp_path)
    listener = packets.listen("ctl", directory)
    connection = packets.connect(directory, "ctl")
    accepted = packets.accept(listener)
    assert accepted is not None

    packets.send(connection, Adopt())
    packets.send(accepted, Pause(7))

    assert got(accepted)[0] == Adopt()
    assert got(connection)[0] == Pause(7)
    connection.close()
    assert packets.receive(accepted) is None
    accepted.close()
    listener.close()


def test_a_listener_takes_the_place_of_a_dead_one(tmp_path: Path) -> None:
    """A killed shim leaves its socket's name behind."""
    packets.listen("ctl", str(tmp_path)).close()

    listener = packets.listen("ctl", str(tmp_path))

    connection = packets.connect(str(tmp_path), "ctl")
    accepted = packets.accept(listener)
    assert accepted is not None
    for end in (accepted, connection, listener):
        end.close()


def test_nobody_waiting_is_nobody_accepted(tmp_path: Path) -> None:
    """A peer that came and went is one that is at its end."""
    listener = packets.listen("ctl", str(tmp_path))
    assert packets.accept(listener) is None

    packets.connect(str(tmp_path), "ctl").close()

    accepted = packets.accept(listener)
    assert accepted is not None
    assert packets.receive(accepted) is None
    assert packets.accept(listener) is None
    accepted.close()
    listener.close()


def test_a_connection_to_nobody_is_an_error_and_leaves_no_descriptor(tmp_path: Path) -> None:
    """No name, no listener behind the name, no directory, too many waiting."""
    packets.listen("dead", str(tmp_path)).close()
    listener = packets.listen("busy", str(tmp_path))
    waiting = [packets.connect(str(tmp_path), "busy") for _ in range(17)]
    before = held()

    for directory, name in [
        (tmp_path, "none"),
        (tmp_path, "dead"),
        (tmp_path / "none", "ctl"),
        (tmp_path, "busy"),
    ]:
        with pytest.raises(OSError, match=r"\[Errno"):
            packets.connect(str(directory), name)

    assert held() <= before
    for end in (*waiting, listener):
        end.close()


def test_a_name_that_cannot_be_bound_is_an_error_and_leaves_no_descriptor(tmp_path: Path) -> None:
    """The shim goes on without a control socket then."""
    (tmp_path / "ctl").mkdir()
    before = held()

    with pytest.raises(OSError, match=r"\[Errno"):
        packets.listen("ctl", str(tmp_path))

    assert held() <= before
