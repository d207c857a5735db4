"""Whether a socket on this machine leads to an agent: asked end to end, with a deadline.

ssh listens for a forward in any case; what the server allows shows at the first connection.
And a connection through a dead link succeeds too: ssh accepts it here. So only the first
thing that the agent itself sends counts: HTTP/2's SETTINGS frame, which needs no question.
"""

from __future__ import annotations

import enum
import socket
import time

_FRAME_HEADER_BYTES = 9
_SETTINGS = 4


class Answer(enum.Enum):
    """What was found behind a socket."""

    #: An agent greets.
    READY = enum.auto()
    #: The far end refused, or hung up: the link lives, and leads to no agent.
    CLOSED = enum.auto()
    #: Nothing came in time.
    SILENT = enum.auto()
    #: Nobody listens here.
    ABSENT = enum.auto()


def ask(path: str, within_s: float) -> Answer:
    """Return what answers behind the unix socket `path` within so many seconds."""
    deadline_s = time.monotonic() + within_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(within_s)
        try:
            connection.connect(path)
        except TimeoutError:
            return Answer.SILENT
        except OSError:
            return Answer.ABSENT
        try:
            return _greeting(connection, deadline_s)
        except TimeoutError:
            return Answer.SILENT
        except OSError:
            return Answer.CLOSED


def _greeting(connection: socket.socket, deadline_s: float) -> Answer:
    header = b""
    while len(header) < _FRAME_HEADER_BYTES:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return Answer.SILENT
        connection.settimeout(left_s)
        got = connection.recv(_FRAME_HEADER_BYTES - len(header))
        if not got:
            return Answer.CLOSED
        header += got
    # Length (3), type, flags, stream (4): RFC 9113, 4.1 and 6.5.
    is_settings = header[3] == _SETTINGS and header[5:] == bytes(4)
    return Answer.READY if is_settings else Answer.CLOSED
