"""The server's end of the socketpair: messages of `agentd.core.contract`, one a line."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import structlog

from agentd.core import contract
from agentd.errors import WardenGoneError

#: A Hello with 100,000 jobs fits; whoever sends more is not our warden.
MAX_LINE_BYTES = 64 << 20

_log = structlog.get_logger("agentd.wardenlink")


class WardenLink:
    """Sends to the warden and receives from it. Belongs to one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take over both directions; see `open_link`."""
        self._reader = reader
        self._writer = writer
        self._gone = False

    def send(self, message: contract.Message) -> None:
        """Hand a message to the kernel, or keep it until the warden reads on.

        Raises:
            WardenGoneError: The warden is gone.

        """
        if self._gone or self._writer.is_closing():
            raise WardenGoneError("the warden is gone; the agent is being restarted, try again")
        self._writer.write(contract.encode(message) + b"\n")

    async def receive(self) -> contract.Message | None:
        """Return the next message this version knows, or None once the warden is gone."""
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
                if not isinstance(error, asyncio.IncompleteReadError) or error.partial:
                    _log.error("warden.link_broken", error=type(error).__name__)
                self._gone = True
                return None
            try:
                message = contract.decode(line)
            except ValueError as error:
                _log.error("warden.message_unreadable", error=str(error))
                continue
            if message is not None:
                return message

    async def __aiter__(self) -> AsyncIterator[contract.Message]:
        while (message := await self.receive()) is not None:
            yield message

    async def close(self) -> None:
        """Close this end; the warden sees the end of the stream."""
        self._gone = True
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            # The other end was reset first: closed is closed.
            pass


async def open_link(descriptor: int) -> WardenLink:
    """Take over the descriptor of our end."""
    end = socket.socket(fileno=descriptor)
    reader, writer = await asyncio.open_connection(sock=end, limit=MAX_LINE_BYTES)
    return WardenLink(reader, writer)
