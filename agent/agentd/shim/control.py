"""The shim's control socket: whoever may reach it is the owner."""

from __future__ import annotations

import os
from select import EPOLLIN

from agentd.system import plainjson, seqpacket
from agentd.system.clock import boot_ns
from agentd.system.jobfiles import CONTROL

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    from _socket import socket as c_socket
    from collections.abc import Iterator, Mapping
    from typing import Any


_RETRY_NS = 1_000_000_000


class Control:
    """The warden that forked us and every later one that connected, all treated alike.

    Nobody looks for the socket while a warden is connected, so it is made when the last one
    is gone: a name in the file system costs a launch a millisecond on a well-filled disk.
    """

    __slots__ = ("_epoll", "_first", "_listener", "_peers", "listen_at_ns")

    def __init__(self, epoll: select.epoll, first: c_socket) -> None:
        """Serve `first` from the beginning."""
        self._epoll = epoll
        self._first = first
        self._listener: c_socket | None = None
        self._peers = {first.fileno(): first}
        #: CLOCK_BOOTTIME at which `listen` is to be called; None: it is not.
        self.listen_at_ns: int | None = None
        epoll.register(first.fileno(), EPOLLIN)

    @property
    def has_first(self) -> bool:
        """Whether the warden that forked us still is there."""
        return self._first.fileno() >= 0

    def owns(self, descriptor: int) -> bool:
        """Say whether an epoll event on `descriptor` is ours."""
        listening = self._listener is not None and descriptor == self._listener.fileno()
        return listening or descriptor in self._peers

    def serve(self, descriptor: int) -> Iterator[tuple[c_socket, dict[str, Any]]]:
        """Accept, or yield what a peer sent: messages of core.contract, undecoded."""
        peer = self._peers.get(descriptor)
        if peer is None:
            self._accept()
            return
        while True:
            try:
                packet, descriptors = seqpacket.receive_bytes(peer)
            except BlockingIOError:
                return
            if not packet:
                self._drop(descriptor)
                return
            for sent in descriptors:
                os.close(sent)
            try:
                yield peer, plainjson.loads(packet)
            except ValueError:
                continue

    def send(self, peer: c_socket, packet: bytes, descriptors: Mapping[str, int]) -> None:
        """Answer one peer, with descriptors."""
        seqpacket.send_bytes(peer, packet, tuple(descriptors.values()))

    def broadcast(self, packet: bytes) -> None:
        """Tell every peer; one that does not listen misses it and will read the files."""
        for peer in self._peers.values():
            seqpacket.send_bytes(peer, packet)

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
        peer = seqpacket.accept(self._listener)
        if peer is not None:
            self._peers[peer.fileno()] = peer
            self._epoll.register(peer.fileno(), EPOLLIN)

    def _drop(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._peers.pop(descriptor).close()
        if not self._peers and self._listener is None:
            self.listen_at_ns = 0

    def listen(self) -> None:
        """Let the next warden connect, at the control socket in the current directory."""
        try:
            self._listener = seqpacket.listen(CONTROL)
        except OSError:
            # No room, or no sockets on this file system; only a later warden will miss it.
            self.listen_at_ns = boot_ns() + _RETRY_NS
            return
        self.listen_at_ns = None
        self._epoll.register(self._listener.fileno(), EPOLLIN)
