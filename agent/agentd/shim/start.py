"""The talk between a leader that is not yet executed and its shim.

Over one packet socket, `start`: the leader sends the plan once its pidfile is durable; the
shim answers with one packet, the gate; the leader then reports a step that failed, or is
executed and its end closes. The shim only looks at what follows the plan (MSG_PEEK): a rescue
shim, which holds the same socket, must be able to read it again, and may open the gate again.
"""

from __future__ import annotations

import json
import os
from _socket import MSG_DONTWAIT, MSG_PEEK
from _socket import socket as c_socket
from dataclasses import dataclass

from agentd.shim import plan
from agentd.shim.plan import Plan

_GATE = b"go"
_PACKET_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class StartError:
    """The step that failed, why, and on which path."""

    step: str
    errno: int
    path: str

    @property
    def reason(self) -> str:
        """One line for people."""
        return f"cannot {self.step} {self.path}: {os.strerror(self.errno)}"


class StartTalk:
    """One end of the talk. Borrows the descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Speak over `descriptor`."""
        self._socket = c_socket(fileno=descriptor)

    def close(self) -> None:
        """Let go without closing what was borrowed."""
        self._socket.detach()

    # The leader's side.

    def propose(self, proposal: Plan) -> bool:
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
            self._socket.send(json.dumps(body).encode())
        except OSError:
            return

    # The shim's side.

    def hear_plan(self) -> Plan | None:
        """Wait for the plan; None if the leader ended without one."""
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
            if plan.decode(packet) is None:
                break
            # The plan, unheard: the shim it was for was killed.
            self._receive(0)
        if not packet:
            return None
        body = json.loads(packet)
        return StartError(body["step"], body["errno"], body["path"])

    def _receive(self, flags: int) -> bytes:
        try:
            return self._socket.recv(_PACKET_BYTES, flags)
        except ConnectionResetError:
            # The leader went on without reading the gate that was opened a second time. The
            # kernel says so once, and before what the leader itself had sent.
            return self._socket.recv(_PACKET_BYTES, flags)
