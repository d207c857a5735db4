"""What happens to jobs, across any number of cut connections.

Events are read from a cursor that moves only after the caller has come back for the next one,
so that none is missing and none comes twice. A wait begins with the job as it is, so that it
cannot miss an end that fell into a cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from agentapi.v1 import job_service_pb2 as wire
from agentctl.api.channel import Connection
from agentctl.api.convert import event_from_wire, job_from_wire
from agentctl.errors import TryAgainError, WaitTimeoutError
from agentctl.model import Event, Job


def wait_for(
    connection: Connection,
    job_id: int,
    timeout_s: float | None,
    seen: Callable[[Job | Event], None] | None,
) -> Job | None:
    """Return the job once it is over, or None where the agent says only that it is.

    Raises:
        WaitTimeoutError: It was not seen to be over within `timeout_s` seconds.
        AgentctlError: What the agent answered, or that it did not.

    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    request = wire.WatchJobsRequest(job_ids=[job_id], follow=True)
    watch = connection.stream(lambda stub: stub.WatchJobs, lambda: request, timeout_s)
    try:
        for response in watch:
            if (item := _watched(response, connection.link.host)) is not None:
                if seen is not None:
                    seen(item)
                job = item.job if isinstance(item, Event) else item
                if job.is_over:
                    return job
            if response.WhichOneof("item") == "fin":
                break
    except TryAgainError as error:
        if deadline_s is None or time.monotonic() < deadline_s:
            raise
        raise _timed_out(connection, job_id, timeout_s or 0.0, error) from None
    return None


def _timed_out(
    connection: Connection, job_id: int, timeout_s: float, error: TryAgainError
) -> WaitTimeoutError:
    if not connection.is_lost:
        return WaitTimeoutError(f"job {job_id} is not over after {timeout_s:g} s")
    # It may well be over: nobody could say.
    host = connection.link.host
    lost = WaitTimeoutError(
        f"job {job_id} was not seen to end in time: {host} is out of reach ({error})"
    )
    lost.asked_before = True
    return lost


def _watched(response: wire.WatchJobsResponse, host: str) -> Job | Event | None:
    match response.WhichOneof("item"):
        case "snapshot":
            return job_from_wire(response.snapshot, host)
        case "event":
            return event_from_wire(response.event, host)
        case _:
            return None


def events_of(
    connection: Connection, job_ids: Sequence[int], after_seq: int, *, follow: bool
) -> Iterator[Event]:
    """Yield the events after `after_seq`, oldest first; all jobs' if `job_ids` is empty."""
    cursor = after_seq

    def request() -> wire.WatchJobsRequest:
        return wire.WatchJobsRequest(job_ids=job_ids, after_seq=cursor, follow=follow)

    for response in connection.stream(lambda stub: stub.WatchJobs, request):
        match response.WhichOneof("item"):
            case "event":
                yield event_from_wire(response.event, connection.link.host)
                cursor = response.event.seq
            case "fin":
                return


def last_event_seq(connection: Connection) -> int:
    """Return the cursor of the newest event."""
    request = wire.WatchJobsRequest(after_seq=2**63 - 1)
    watch = connection.stream(lambda stub: stub.WatchJobs, lambda: request, endless=False)
    last = next(item.fin.last_seq for item in watch if item.WhichOneof("item") == "fin")
    watch.close()
    return last
