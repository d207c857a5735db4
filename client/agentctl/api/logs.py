"""Reading a log from any offset, across any number of cut connections.

The reader's place moves only after the caller has come back for the next item, that is after
the bytes are out; a reading that was cut is taken up there. Only `Fin` is an end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from agentapi.v1 import job_service_pb2
from agentctl.api.amounts import whole_of
from agentctl.api.channel import Connection
from agentctl.api.convert import log_item_from_wire, time_to_wire
from agentctl.errors import InvalidSpecError
from agentctl.model import Chunk, Fin, LogItem
from agentctl.moments import read_moment

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
    #: "10m" or seconds ago, or a time with its zone.
    since: str | float | datetime | None = None

    def checked(self) -> LogQuery:
        """Return it with a time for `since`. Raises InvalidSpecError if it cannot be asked."""
        starts = (self.offset, self.tail_lines, self.since)
        if sum(start is not None for start in starts) > 1:
            raise InvalidSpecError("offset, tail_lines and since exclude each other; choose one")
        for name, value in (("offset", self.offset), ("tail_lines", self.tail_lines)):
            if value is not None:
                whole_of(name, value, _MAX_UINT64)
        if self.since is None:
            return self
        try:
            return replace(self, since=read_moment(self.since, datetime.now(UTC)))
        except ValueError as error:
            raise InvalidSpecError(f"since: {error}") from None

    def request(self, place: int | None) -> job_service_pb2.ReadLogRequest:
        """Return a checked query in the wire's form, from `place` on if it had begun. Pure."""
        stream = job_service_pb2.LOG_STREAM_ERR if self.stderr else job_service_pb2.LOG_STREAM_OUT
        request = job_service_pb2.ReadLogRequest(
            job_id=self.job_id, stream=stream, follow=self.follow, with_times=self.with_times
        )
        if place is not None:
            request.offset = place
        elif self.tail_lines is not None:
            request.tail_lines = self.tail_lines
        elif isinstance(self.since, datetime):
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
