"""A listener on this machine whose connections come out at a port of the host.

It takes connections whether or not the link stands: each asks for its own way, and the
listener outlives all of them. One thread takes them, and each has two.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from agentctl.errors import AgentctlError

if TYPE_CHECKING:
    from agentctl.api.forward import Tunnel

#: A message costs some 100 us on either side whatever it holds.
_CHUNK_BYTES = 256 << 10
#: Off after zero seconds: a close sends a reset (SO_LINGER, socket(7)).
_RESET = struct.pack("ii", 1, 0)
#: A browser asks again and again: the same complaint is not repeated before.
_QUIET_S = 10.0


class Relay:
    """Takes the connections of one listening socket, in the background, until `close`."""

    def __init__(
        self,
        listener: socket.socket,
        tunnel: Callable[[], Tunnel],
        complain: Callable[[str], None],
    ) -> None:
        """`tunnel` makes one that is not yet open; `complain` is given lines, in any thread."""
        self._listener = listener
        self._tunnel = tunnel
        self._complain = complain
        self._lock = threading.Lock()
        self._said: tuple[str, float] = ("", 0.0)
        self._open: dict[socket.socket, Tunnel] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The local port."""
        number: int = self._listener.getsockname()[1]
        return number

    def close(self) -> None:
        """Take no more, and break off what is open."""
        with self._lock:
            self._closed = True
            still_open = tuple(self._open.items())
        # Wakes the thread that accepts; a close alone would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        for end, tunnel in still_open:
            _reset(end)
            tunnel.close()
        self._thread.join()
        self._listener.close()

    def _take(self) -> None:
        while not self._is_closed():
            try:
                end, _ = self._listener.accept()
            except OSError:
                if self._is_closed():
                    return
                # Too many open files, most likely: some will be closed.
                time.sleep(0.1)
                continue
            threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _is_closed(self) -> bool:
        with self._lock:
            return self._closed

    def _serve(self, end: socket.socket) -> None:
        tunnel = self._tunnel()
        with self._lock:
            if self._closed:
                end.close()
                return
            self._open[end] = tunnel
        how = socket.SHUT_RD
        try:
            _copy(end, tunnel)
            how = socket.SHUT_RDWR
        except AgentctlError as error:
            _reset(end)
            self._say(str(error))
        except OSError:
            # Whoever had connected is gone.
            _reset(end)
        finally:
            with self._lock:
                del self._open[end]
            # First this, so that the thread that reads wakes up; after a cut not the other
            # direction, whose end would be sent before the reset.
            _shut(end, how)
            end.close()

    def _say(self, line: str) -> None:
        now_s = time.monotonic()
        with self._lock:
            before, said_s = self._said
            if self._closed or (line == before and now_s - said_s < _QUIET_S):
                return
            self._said = (line, now_s)
        self._complain(line)


def _copy(end: socket.socket, tunnel: Tunnel) -> None:
    """Copy both ways until both are at their end. Raises AgentctlError or OSError."""
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        tunnel.open(lambda: end.recv(_CHUNK_BYTES))
        for data in tunnel:
            if data:
                end.sendall(data)
            else:
                _shut(end, socket.SHUT_WR)
    finally:
        tunnel.close()


def _shut(end: socket.socket, how: int) -> None:
    try:
        end.shutdown(how)
    except OSError:
        # The other side was faster.
        return


def _reset(end: socket.socket) -> None:
    """Have the close send a reset: what came so far must not be taken for all there is."""
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        return
