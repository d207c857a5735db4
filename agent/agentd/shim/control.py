"""The shim's control socket: whoever may reach it is the owner."""

from __future__ import annotations

import os
import select
from _socket import socket as c_socket
from collections.abc import Iterator, Mapping

from agentd.core.contract import Message, encode
from agentd.system import packets
from agentd.system.jobdir import CONTROL


class Control:
    """The warden that forked us and every later one that connected, all treated alike."""

    def __init__(self, epoll: select.epoll, first: c_socket) -> None:
        """Listen in the current directory and serve `first` from the beginning."""
        self._epoll = epoll
        self._first = first
        self._listener: c_socket | None = None
        self._peers: dict[int, c_socket] = {}
        self._add(first)
        try:
            self._listener = packets.listen(CONTROL)
        except OSError:
            # No socket on this file system, or no room: only a later warden will miss it.
            return
        epoll.register(self._listener.fileno(), select.EPOLLIN)

    @property
    def has_first(self) -> bool:
        """Whether the warden that forked us still is there."""
        return self._first.fileno() >= 0

    def owns(self, descriptor: int) -> bool:
        """Say whether an epoll event on `descriptor` is ours."""
        listening = self._listener is not None and descriptor == self._listener.fileno()
        return listening or descriptor in self._peers

    def serve(self, descriptor: int) -> Iterator[tuple[c_socket, Message]]:
        """Accept, or yield what a peer sent."""
        peer = self._peers.get(descriptor)
        if peer is None:
            self._accept()
            return
        while True:
            try:
                received = packets.receive(peer)
            except BlockingIOError:
                return
            if received is None:
                self._drop(descriptor)
                return
            if received[0] is not None:
                yield peer, received[0]

    def send(self, peer: c_socket, message: Message, descriptors: Mapping[str, int]) -> None:
        """Answer one peer, with descriptors."""
        packets.send(peer, message, tuple(descriptors.values()))

    def broadcast(self, message: Message) -> None:
        """Tell every peer; one that does not listen misses it and will read the files."""
        self.broadcast_bytes(encode(message))

    def broadcast_bytes(self, packet: bytes) -> None:
        """The same for a message that is encoded already."""
        for peer in self._peers.values():
            packets.send_bytes(peer, packet)

    def close(self) -> None:
        """Take the name away; peers notice our end by the end of the process."""
        if self._listener is not None:
            self._listener.close()
            try:
                os.unlink(CONTROL)
            except OSError:
                # Somebody cleaned up before us.
                return

    def _accept(self) -> None:
        if self._listener is None:
            return
        peer = packets.accept(self._listener)
        if peer is not None:
            self._add(peer)

    def _add(self, peer: c_socket) -> None:
        self._peers[peer.fileno()] = peer
        self._epoll.register(peer.fileno(), select.EPOLLIN)

    def _drop(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._peers.pop(descriptor).close()
