"""A job's log onto this process' own descriptors, for `logs` and `run`."""

from __future__ import annotations

import os
import select
from dataclasses import replace
from typing import TYPE_CHECKING

from agentctl.model import Chunk, Fin, Gap
from agentctl.render.log import LineStamper, gap_line

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.api.logs import LogQuery

STDOUT = 1
STDERR = 2


class LogCopy:
    """Copies one log; called again it goes on where it was interrupted."""

    def __init__(self, query: LogQuery, descriptor: int) -> None:
        """Copy what `query` asks for to `descriptor`."""
        self._query = query
        self._descriptor = descriptor
        self._stamper = LineStamper() if query.with_times else None

    def copy(self, client: Client) -> Fin:
        """Copy until the end. Raises BrokenPipeError, AgentctlError."""
        for item in client.log_items(self._query):
            match item:
                case Chunk():
                    self._write(item)
                    self._go_on_at(item.offset + len(item.data))
                case Gap():
                    self._tell(item)
                    self._go_on_at(item.to_offset)
                case Fin():
                    return item
        raise AssertionError("a log ends with Fin")

    def _go_on_at(self, offset: int) -> None:
        self._query = replace(self._query, offset=offset, tail_lines=None, since=None)

    def _write(self, chunk: Chunk) -> None:
        data = chunk.data if self._stamper is None else self._stamper.stamp(chunk)
        write_all(self._descriptor, data)

    def _tell(self, gap: Gap) -> None:
        if self._stamper is not None:
            self._stamper.broken_line()
        write_all(STDERR, gap_line(gap).encode())


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, also to a descriptor that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
