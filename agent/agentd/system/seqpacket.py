"""Packets with descriptors: AF_UNIX SOCK_SEQPACKET (unix(7)), SCM_RIGHTS.

A packet is whole or not there, and what a killed sender had sent stays readable. The types are
those of `_socket`, the C half of `socket`: a shim keeps every page it touches for as long as
its job lives, and the Python half touches many.
"""

from __future__ import annotations

import os
import struct
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)
from _socket import socket as c_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: No message comes near; a Refused reason is the longest.
MAX_PACKET_BYTES = 64 << 10
_MAX_DESCRIPTORS = 8
_INT_BYTES = struct.calcsize("i")
_ROOM = CMSG_SPACE(_MAX_DESCRIPTORS * _INT_BYTES)

_KIND = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK


def pair() -> tuple[c_socket, c_socket]:
    """Return two connected, close-on-exec, non-blocking ends."""
    ours, theirs = socketpair(AF_UNIX, _KIND)
    # The C half takes the flag for the descriptor's and would block on its own account.
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def listen(name: str, directory: str = ".") -> c_socket:
    """Bind and listen at `directory`/`name`.

    The path goes through /proc/self/fd, so that its length does not matter (108 bytes at
    most otherwise, unix(7)).
    """
    anchor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = c_socket(AF_UNIX, _KIND)
    try:
        try:
            os.unlink(name, dir_fd=anchor)
        except FileNotFoundError:
            pass
        listener.bind(f"/proc/self/fd/{anchor}/{name}")
        listener.listen(16)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(anchor)
    return listener


def accept(listener: c_socket) -> c_socket | None:
    """Return the next peer, non-blocking, or None if there is none any more."""
    try:
        # What socket.socket.accept() does, without the Python half.
        descriptor, _ = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  # see above
    except OSError:
        return None
    accepted = c_socket(fileno=descriptor)
    accepted.setblocking(False)
    return accepted


def connect(directory: str, name: str) -> c_socket:
    """Return a non-blocking connection to a listener of `listen`. Raises OSError."""
    anchor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = c_socket(AF_UNIX, _KIND)
    try:
        connection.setblocking(False)
        connection.connect(f"/proc/self/fd/{anchor}/{name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(anchor)
    return connection


def send_bytes(to: c_socket, packet: bytes, descriptors: Sequence[int] = ()) -> bool:
    """Send one packet; False if the peer is gone or its buffer is full."""
    try:
        if descriptors:
            packed = struct.pack(f"{len(descriptors)}i", *descriptors)
            to.sendmsg([packet], [(SOL_SOCKET, SCM_RIGHTS, packed)], MSG_NOSIGNAL)
        else:
            to.send(packet, MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def receive_bytes(source: c_socket, most_bytes: int = MAX_PACKET_BYTES) -> tuple[bytes, list[int]]:
    """Return the next packet and its descriptors; an empty one at end of file.

    Raises:
        BlockingIOError: Nothing is there.

    """
    try:
        data, ancillary, _, _ = source.recvmsg(most_bytes, _ROOM, MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # The peer ended with something of ours unread. The kernel says so once, and before
        # what the peer itself had sent (__skb_try_recv_datagram() in net/core/datagram.c).
        data, ancillary, _, _ = source.recvmsg(most_bytes, _ROOM, MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, body in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            descriptors += struct.unpack(f"{len(body) // _INT_BYTES}i", body)
    return data, descriptors
