"""The connection: what is made again, what is not, and where a stream goes on."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from agentapi.v1 import job_pb2
from agentapi.v1 import job_service_pb2 as wire
from agentctl import errors
from agentctl.api.channel import Connection
from agentctl.api.logs import LogQuery, read_log
from agentctl.api.patience import Patience
from agentctl.model import Chunk, Fin, Gap, GapReason
from tests.unit.agentctl.wire_server import (
    Answer,
    FixedLink,
    aborting,
    connected,
    giving,
    scripted,
    serving,
)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
GOT = giving(wire.GetJobResponse(job=job_pb2.Job(id=7)))


@pytest.fixture(name="directory")
def _directory() -> Iterator[str]:
    """Yield a directory whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="ac-", dir="/tmp") as path:
        yield path


def get(connection: Connection) -> int:
    """Make one call."""
    return connection.call(lambda stub: stub.GetJob, wire.GetJobRequest(job_id=7)).job.id


@pytest.mark.parametrize("reason", ["", "draining", "warden-gone"])
def test_a_call_is_made_again_while_the_agent_is_away(directory: str, reason: str) -> None:
    """Whether the connection broke or the agent says that it is going."""
    servicer = scripted(GetJob=[aborting(UNAVAILABLE, reason), aborting(UNAVAILABLE, reason), GOT])
    with connected(servicer, directory) as connection:
        assert get(connection) == 7
    assert len(servicer.requests) == 3


def test_a_mutation_is_made_again_under_the_same_key(directory: str) -> None:
    """So that nothing is done twice."""
    done = giving(wire.SubmitJobResponse(job=job_pb2.Job(id=1)))
    servicer = scripted(SubmitJob=[aborting(UNAVAILABLE), done])
    with connected(servicer, directory) as connection:
        request = wire.SubmitJobRequest(idempotency_key="k")
        connection.call(lambda stub: stub.SubmitJob, request)
    assert [request.idempotency_key for request in servicer.requests] == ["k", "k"]


@pytest.mark.parametrize(
    ("code", "reason", "kind", "exit_code"),
    [
        (grpc.StatusCode.NOT_FOUND, "job-not-found", errors.JobNotFoundError, 1),
        (grpc.StatusCode.INVALID_ARGUMENT, "invalid-spec", errors.InvalidSpecError, 2),
        (grpc.StatusCode.FAILED_PRECONDITION, "wrong-state", errors.WrongStateError, 1),
        (
            grpc.StatusCode.FAILED_PRECONDITION,
            "api-level-mismatch",
            errors.ApiLevelMismatchError,
            1,
        ),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "disk-full", errors.DiskFullError, 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", errors.ResourceExhaustedError, 1),
        (grpc.StatusCode.UNIMPLEMENTED, "", errors.ApiLevelMismatchError, 1),
        (grpc.StatusCode.INTERNAL, "system-call", errors.AgentctlError, 70),
        (grpc.StatusCode.UNKNOWN, "", errors.AgentctlError, 70),
    ],
)
def test_an_answer_is_an_answer(
    directory: str,
    code: grpc.StatusCode,
    reason: str,
    kind: type[errors.AgentctlError],
    exit_code: int,
) -> None:
    """Mapped by reason, then by status, and asked for once."""
    servicer = scripted(GetJob=[aborting(code, reason, "some text")])
    with connected(servicer, directory) as connection, pytest.raises(kind) as caught:
        get(connection)
    assert len(servicer.requests) == 1
    assert type(caught.value) is kind
    assert caught.value.exit_code == exit_code
    assert caught.value.reason == reason or not reason


def test_every_call_names_the_api_level(directory: str) -> None:
    """So that the agent can refuse in one clear line."""
    servicer = scripted(GetJob=[GOT])
    with connected(servicer, directory) as connection:
        get(connection)
    assert servicer.metadata[0]["agentctl-api-level"] == "1"


def test_a_new_agent_on_the_same_socket_is_found_at_once(directory: str) -> None:
    """No back-off of the old channel is waited for."""
    path = f"{directory}/s"
    connection = Connection(FixedLink(path))
    for _ in range(3):
        with serving(scripted(GetJob=[GOT]), path):
            began_s = time.monotonic()
            assert get(connection) == 7
            assert time.monotonic() - began_s < 2
    connection.close()


def test_a_socket_path_with_odd_characters_is_reached(directory: str) -> None:
    """The target is a URI, the path is not."""
    path = f"{directory}/a b%41#?"
    # gRPC's own reading of a server address is a URI as well.
    with serving(scripted(GetJob=[GOT]), f"{directory}/a%20b%2541%23%3F"):
        connection = Connection(FixedLink(path))
        assert get(connection) == 7
        connection.close()


def test_patience_ends_with_the_error_it_was_spent_on() -> None:
    """And not before its time."""
    patience = Patience(0.0)
    with pytest.raises(errors.TryAgainError, match="gone"):
        patience.spend(errors.TryAgainError("gone"))


def test_silence_is_not_a_failure(directory: str) -> None:
    """A job may say nothing for hours; patience begins when the stream is cut."""

    def silent(_request: object, context: grpc.ServicerContext) -> Iterator[object]:
        yield from ()
        threading.Event().wait(1.5)
        context.abort(UNAVAILABLE, "cut")

    servicer = scripted(ReadLog=[silent, cut_after(), silent, cut_after(), giving([fin(0)])])
    with connected(servicer, directory, patience_s=1.0) as connection:
        assert list(read_log(connection, LogQuery(7, follow=True))) == [Fin(0, job_over=True)]


def test_patience_ends(directory: str) -> None:
    """With what the last attempt said."""
    servicer = scripted(ReadLog=[cut_after()], GetJob=[aborting(UNAVAILABLE, "warden-gone", "x")])
    with connected(servicer, directory, patience_s=0.3) as connection:
        with pytest.raises(errors.TryAgainError):
            list(read_log(connection, LogQuery(7, follow=True)))
        with pytest.raises(errors.TryAgainError, match="x"):
            get(connection)


def test_a_closed_client_says_so(directory: str) -> None:
    """It does not connect again."""
    connection = Connection(FixedLink(f"{directory}/s"))
    connection.close()
    connection.close()
    with pytest.raises(errors.AgentctlError, match="closed"):
        get(connection)


def test_threads_share_one_connection(directory: str) -> None:
    """Many at once, one connect."""
    path = f"{directory}/s"
    link = FixedLink(path)
    results: list[int] = []
    with serving(scripted(GetJob=[GOT]), path):
        connection = Connection(link)
        threads = [
            threading.Thread(target=lambda: results.append(get(connection))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        connection.close()
    assert results == [7] * 8
    assert link.connects == 1


def chunk(offset: int, data: bytes) -> wire.ReadLogResponse:
    """Return a piece of log."""
    return wire.ReadLogResponse(chunk=wire.LogChunk(offset=offset, data=data))


def fin(offset: int) -> wire.ReadLogResponse:
    """Return the end of a log."""
    return wire.ReadLogResponse(fin=wire.LogFin(next_offset=offset, job_over=True))


def cut_after(*responses: wire.ReadLogResponse) -> Answer:
    """Return an answer that sends these and then breaks."""

    def answer(_request: object, context: grpc.ServicerContext) -> Iterator[object]:
        yield from responses
        context.abort(UNAVAILABLE, "cut")

    return answer


def test_a_cut_log_goes_on_at_the_next_byte(directory: str) -> None:
    """Byte for byte, gaps included, across three cuts; only Fin is an end."""
    gap = wire.ReadLogResponse(
        gap=wire.LogGap(from_offset=3, to_offset=9, reason=wire.GAP_REASON_RETENTION)
    )
    servicer = scripted(
        ReadLog=[
            cut_after(chunk(0, b"abc")),
            cut_after(gap),
            giving([chunk(9, b"de")]),
            giving([chunk(11, b"f"), fin(12)]),
        ]
    )
    with connected(servicer, directory) as connection:
        items = list(read_log(connection, LogQuery(7, follow=True)))
    assert items == [
        Chunk(0, b"abc"),
        Gap(3, 9, GapReason.RETENTION),
        Chunk(9, b"de"),
        Chunk(11, b"f"),
        Fin(12, job_over=True),
    ]
    assert [request.offset for request in servicer.requests] == [0, 3, 9, 11]


def test_a_tail_that_was_cut_before_its_first_byte_is_asked_for_again(directory: str) -> None:
    """Afterwards the offset counts, not the lines."""
    servicer = scripted(
        ReadLog=[cut_after(), cut_after(chunk(50, b"x\n")), giving([fin(52)])],
    )
    with connected(servicer, directory) as connection:
        list(read_log(connection, LogQuery(7, tail_lines=1)))
    starts = [request.WhichOneof("start") for request in servicer.requests]
    assert starts == ["tail_lines", "tail_lines", "offset"]
    assert servicer.requests[2].offset == 52


def test_a_reader_that_leaves_ends_the_call(directory: str) -> None:
    """Nothing is sent to nobody."""
    ended = threading.Event()

    def endless(_request: object, context: grpc.ServicerContext) -> Iterator[object]:
        context.add_callback(ended.set)
        yield chunk(0, b"x")
        ended.wait(10)

    with connected(scripted(ReadLog=[endless]), directory) as connection:
        reading = read_log(connection, LogQuery(7, follow=True))
        next(reading)
        reading.close()  # type: ignore[attr-defined]  # a generator
        assert ended.wait(10)
