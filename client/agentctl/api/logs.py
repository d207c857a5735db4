"""Reading a log from any offset, across any number of cut connections.

The reader's place moves only after the caller has come back for the next item, that is after
the bytes are out; a reading that was cut is taken up there. Only `Fin` is an end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from agentapi.v1 import job_service_pb2
from agentctl.api.channel import Connection
from agentctl.api.convert import log_item_from_wire, time_to_wire
from agentctl.errors import InvalidSpecError
from agentctl.model import Chunk, Fin, LogItem

_MAX_UINT64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What to read of which log."""

    job_id: int
    stderr: bool = False
    follow: bool = False
    with_times: bool = False
    #: Where to begin: at most one of the three; none: at byte 0.
    offset: int | None = None
    tail_lines: int | None = None
    since: datetime | None = None

    def check(self) -> None:
        """Raise InvalidSpecError if this cannot be asked."""
        starts = (self.offset, self.tail_lines, self.since)
        if sum(start is not None for start in starts) > 1:
            raise InvalidSpecError("offset, tail and since exclude each other; choose one")
        for name, value in (("offset", self.offset), ("tail", self.tail_lines)):
            if value is not None and not 0 <= value <= _MAX_UINT64:
                raise InvalidSpecError(f"{name}: {value} is out of range; it must be 0 or more")
        if self.since is not None and self.since.tzinfo is None:
            raise InvalidSpecError("since: the time has no zone; use datetime.now(UTC)")

    def request(self, place: int | None) -> job_service_pb2.ReadLogRequest:
        """Return the wire's form, from `place` on if the reading had begun. Pure."""
        stream = job_service_pb2.LOG_STREAM_ERR if self.stderr else job_service_pb2.LOG_STREAM_OUT
        request = job_service_pb2.ReadLogRequest(
            job_id=self.job_id, stream=stream, follow=self.follow, with_times=self.with_times
        )
        if place is not None:
            request.offset = place
        elif self.tail_lines is not None:
            request.tail_lines = self.tail_lines
        elif self.since is not None:
            request.since.CopyFrom(time_to_wire(self.since))
        else:
            request.offset = self.offset or 0
        return request


def read_log(connection: Connection, query: LogQuery) -> Iterator[LogItem]:
    """Yield chunks and gaps in order of offset, then one `Fin`.

    Raises:
        AgentctlError: What the agent answered, or that it stayed away.

    """
    place: int | None = None

    def request() -> job_service_pb2.ReadLogRequest:
        return query.request(place)

    for response in connection.stream(lambda stub: stub.ReadLog, request):
        item = log_item_from_wire(response)
        yield item
        match item:
            case Chunk():
                place = item.offset + len(item.data)
            case Fin():
                return
            case gap:
                place = gap.to_offset
