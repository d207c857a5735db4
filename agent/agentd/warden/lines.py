"""The warden's end of the line to the server: never blocks, never grows without bound."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from agentd.core.contract import Message, decode, encode

#: A server that reads nothing for so long is stuck; it is replaced and recovers from the files.
MAX_BACKLOG_BYTES = 16 << 20
_READ_BYTES = 256 << 10


class LineChannel:
    """Messages, one a line, over a stream socket."""

    def __init__(self, end: socket.socket) -> None:
        """Take over `end`."""
        end.setblocking(False)
        self._socket = end
        self._unsent = bytearray()
        self._partial = b""

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._socket.fileno()

    @property
    def has_backlog(self) -> bool:
        """Whether something waits for room."""
        return bool(self._unsent)

    @property
    def is_stuck(self) -> bool:
        """Whether the other side has read nothing for too long."""
        return len(self._unsent) > MAX_BACKLOG_BYTES

    def send(self, message: Message) -> None:
        """Queue a message and send what there is room for."""
        self._unsent += encode(message) + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what there is room for."""
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent, socket.MSG_NOSIGNAL)
                del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError:
            # The other side is gone; its end is noticed elsewhere, and files hold the truth.
            self._unsent.clear()

    def receive(self) -> Iterator[Message | None]:
        """Yield what has arrived; None, last, at end of file."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            yield None
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            try:
                message = decode(line)
            except ValueError:
                continue
            if message is not None:
                yield message

    def close(self) -> None:
        """Close our end."""
        self._socket.close()
