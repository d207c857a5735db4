"""Messages as packets with descriptors: AF_UNIX SOCK_SEQPACKET (unix(7)), SCM_RIGHTS.

A packet is whole or not there, and what a killed sender had sent stays readable.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

from agentd.core.contract import Message, decode, encode

#: No message comes near; a Refused reason is the longest.
MAX_PACKET_BYTES = 64 << 10
_MAX_DESCRIPTORS = 8
_INT_BYTES = array.array("i").itemsize


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected, close-on-exec, non-blocking ends."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def listen(name: str, directory: str = ".") -> socket.socket:
    """Bind and listen at `directory`/`name`.

    The path goes through /proc/self/fd, so that its length does not matter (108 bytes at
    most otherwise, unix(7)).
    """
    anchor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
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


def connect(directory: str, name: str) -> socket.socket:
    """Return a non-blocking connection to a listener of `listen`. Raises OSError."""
    anchor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.setblocking(False)
        connection.connect(f"/proc/self/fd/{anchor}/{name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(anchor)
    return connection


def send(to: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> bool:
    """Send one packet; False if the peer is gone or its buffer is full."""
    ancillary = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        if descriptors
        else []
    )
    try:
        to.sendmsg([encode(message)], ancillary, socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def receive(source: socket.socket) -> tuple[Message | None, list[int]] | None:
    """Return the next message and its descriptors; None at end of file.

    The message is None for a type this version does not know; its descriptors are closed.

    Raises:
        BlockingIOError: Nothing is there.

    """
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * _INT_BYTES)
    try:
        data, ancillary, _, _ = source.recvmsg(
            MAX_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None
    descriptors = array.array("i")
    for level, kind, body in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(body[: len(body) - len(body) % _INT_BYTES])
    if not data:
        return None
    try:
        message = decode(data)
    except ValueError:
        message = None
    if message is None:
        for descriptor in descriptors:
            os.close(descriptor)
        return None, []
    return message, list(descriptors)
