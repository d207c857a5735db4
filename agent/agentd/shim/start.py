"""The talk between a leader that is not yet executed and its shim.

Over one packet socket, `start`: the leader sends the plan once its pidfile is durable; the
shim answers with one packet, the gate; the leader then reports a step that failed, or is
executed and its end closes. The shim only looks at what follows the plan (MSG_PEEK): a rescue
shim, which holds the same socket, must be able to read it again, and may open the gate again.
"""

from __future__ import annotations

import os
from _socket import MSG_DONTWAIT, MSG_PEEK
from _socket import socket as c_socket

from agentd.core.value import Value
from agentd.shim import plan
from agentd.system import plainjson

_GATE = b"go"
_PACKET_BYTES = 16 << 10


class StartError(Value):
    """The step that failed, why, and on which path."""

    __slots__ = ("step", "errno", "path")  # noqa: RUF023  # as in __init__

    def __init__(self, step: str, errno: int, path: str) -> None:
        self.step = step
        self.errno = errno
        self.path = path

    @property
    def reason(self) -> str:
        """One line for people."""
        return f"cannot {self.step} {self.path}: {os.strerror(self.errno)}"


class StartTalk:
    """One end of the talk. Borrows the descriptor."""

    __slots__ = ("_socket",)

    def __init__(self, descriptor: int) -> None:
        """Speak over `descriptor`."""
        self._socket = c_socket(fileno=descriptor)

    def close(self) -> None:
        """Let go without closing what was borrowed."""
        self._socket.detach()

    # The leader's side.

    def propose(self, proposal: plan.Plan) -> bool:
        """Send the plan and wait at the gate; False if nobody is left to open it."""
        try:
            self._socket.send(proposal.encode())
            return bool(self._socket.recv(len(_GATE)))
        except OSError:
            return False

    def report(self, error: StartError) -> None:
        """Say which step failed."""
        body = {"step": error.step, "errno": error.errno, "path": error.path}
        try:
            self._socket.send(plainjson.dumps(body))
        except OSError:
            return

    # The shim's side.

    def hear_plan(self) -> plan.Plan | None:
        """Wait for the plan; None if the leader ended without one: see `outcome`."""
        if not plan.is_plan(self._receive(MSG_PEEK)):
            return None
        return plan.decode(self._receive(0))

    def open_gate(self) -> None:
        """Let the leader go on; more than once does no harm."""
        try:
            self._socket.send(_GATE)
        except OSError:
            # It has ended meanwhile, and that is learned elsewhere.
            return

    def outcome(self) -> StartError | None:
        """Return the step that failed, or None: the program was executed.

        Raises:
            BlockingIOError: Neither is known yet.

        """
        while True:
            packet = self._receive(MSG_PEEK | MSG_DONTWAIT)
            if not plan.is_plan(packet):
                break
            # The plan, unheard: the shim it was for was killed.
            self._receive(0)
        if not packet:
            return None
        body = plainjson.loads(packet)
        return StartError(body["step"], body["errno"], body["path"])

    def _receive(self, flags: int) -> bytes:
        try:
            return self._socket.recv(_PACKET_BYTES, flags)
        except ConnectionResetError:
            # The leader went on without reading the gate that was opened a second time, or was
            # killed at it. The kernel says so once, and before what the leader itself had sent.
            return self._socket.recv(_PACKET_BYTES, flags)
