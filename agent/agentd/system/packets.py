"""Messages as packets: core.contract over `seqpacket`."""

from __future__ import annotations

import os
from _socket import socket as c_socket
from collections.abc import Sequence

from agentd.core.contract import Message, decode, encode
from agentd.system.seqpacket import (
    MAX_PACKET_BYTES,
    accept,
    connect,
    listen,
    pair,
    receive_bytes,
    send_bytes,
)

__all__ = [
    "MAX_PACKET_BYTES",
    "accept",
    "connect",
    "listen",
    "pair",
    "receive",
    "send",
    "send_bytes",
]


def send(to: c_socket, message: Message, descriptors: Sequence[int] = ()) -> bool:
    """Send one message; False if the peer is gone or its buffer is full."""
    return send_bytes(to, encode(message), descriptors)


def receive(source: c_socket) -> tuple[Message | None, list[int]] | None:
    """Return the next message and its descriptors; None at end of file.

    The message is None for a type this version does not know; its descriptors are closed.

    Raises:
        BlockingIOError: Nothing is there.

    """
    data, descriptors = receive_bytes(source)
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
    return message, descriptors
