"""The files of a job directory as bytes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from agentd.core.guard.model import MemAction
from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    FileOutput,
    FinalState,
    JobSpec,
    Lost,
    MergedOutput,
    Output,
    ProcessId,
    ResourceUsage,
    SplitOutput,
    StartFailed,
    TerminalOutput,
)
from agentd.errors import RecordCorruptError
from agentd.system import records
from agentd.system.records import PidRecord, StopRecord

PID = PidRecord("boot", ProcessId(41, 900), ProcessId(42, 1000), 5, 6, 7, 8)
STOP = StopRecord(Cause.TIMEOUT, 99, "8 h are over")
FINALS: tuple[FinalState, ...] = (
    Ended(5, 9, 4, ExitStatus(7 << 8), Cause.SELF, ResourceUsage(0.5, 0.25, 4096)),
    Ended(5, 9, None, ExitStatus(9 | 0x80), Cause.GUARD, ResourceUsage(), "too large"),
    StartFailed(9, Cause.SELF, "no such file", 2, "/tmp/\udcff"),
    Lost(9, Cause.REBOOT, "restarted", None, (4, 5)),
    Lost(9, Cause.UNKNOWN, "nobody saw", 5),
)
OUTPUTS: tuple[Output, ...] = (
    MergedOutput(),
    SplitOutput(),
    FileOutput("/tmp/\udcffout", "/tmp/err", append=True),
    TerminalOutput(80, 24),
)
LOADERS: dict[str, Callable[[bytes], object]] = {
    "spec": records.load_spec,
    "pid": records.load_pid,
    "stop": records.load_stop,
    "exit": records.load_exit,
}


def make_spec(output: Output) -> JobSpec:
    """Return a spec in which no field has its default."""
    return JobSpec(
        id=7,
        uid="0" * 32,
        idempotency_key="k",
        submitted_at_ns=5,
        argv=("a\udcff", "", "\n"),
        cwd="/tmp/\udc80",
        environment={"A": "\udcfe", "B": ""},
        name="train",
        labels={"team": "a"},
        timeout_s=60.5,
        grace_s=0.0,
        output=output,
        stdin_path="/dev/null",
        umask=0o77,
        mem_limit_bytes=1 << 40,
        mem_action=MemAction.PAUSE,
        preemptible=True,
        requeue_limit=3,
        requeue_count=1,
        requeue_of=5,
        log_segment_bytes=1,
        log_retention_bytes=2,
        resource_limits={"nofile": (333, 1024), "core": (0, -1)},
    )


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: type(output).__name__)
def test_a_spec_comes_back_as_it_was(output: Output) -> None:
    """Bytes that are no UTF-8 included."""
    spec = make_spec(output)

    assert records.load_spec(records.dump_spec(spec)) == spec


def test_a_spec_of_before_there_were_limits_has_none() -> None:
    """Jobs of an older agent are read; a limit that is none makes the record corrupt."""
    body = json.loads(records.dump_spec(make_spec(MergedOutput())))
    unreadable: tuple[object, ...] = ([], {"nofile": 3}, {"nofile": [3]})
    for limits in unreadable:
        with pytest.raises(RecordCorruptError):
            records.load_spec(json.dumps(body | {"resource_limits": limits}).encode())
    del body["resource_limits"]
    assert records.load_spec(json.dumps(body).encode()).resource_limits == {}


def test_a_spec_of_before_there_was_a_guard_asks_nothing_of_it() -> None:
    """One that was written by an older agent is read with the defaults."""
    body = json.loads(records.dump_spec(make_spec(MergedOutput())))
    for name in ("mem_action", "preemptible", "requeue_limit", "requeue_count", "requeue_of"):
        del body[name]
    spec = records.load_spec(json.dumps(body).encode())
    assert (spec.mem_action, spec.preemptible) == (MemAction.KILL, False)
    assert (spec.requeue_limit, spec.requeue_count, spec.requeue_of) == (0, 0, None)


@pytest.mark.parametrize("action", ["stop", 7])
def test_a_spec_with_an_unknown_action_is_corrupt(action: object) -> None:
    """Nobody guesses what is to be done to a job."""
    body = json.loads(records.dump_spec(make_spec(MergedOutput())))
    with pytest.raises(RecordCorruptError):
        records.load_spec(json.dumps({**body, "mem_action": action}).encode())


@pytest.mark.parametrize("final", FINALS, ids=lambda final: type(final).__name__)
def test_an_end_comes_back_as_it_was(final: FinalState) -> None:
    """Each kind of end with its own fields."""
    assert records.load_exit(records.dump_exit(final)) == final


def test_a_pidfile_comes_back_as_it_was() -> None:
    """Its room after it is no part of it."""
    assert records.load_pid(records.dump_pid(PID)) == PID
    assert records.load_pid(records.dump_pid(PID).ljust(1024)) == PID


@pytest.mark.parametrize("empty", [b"", b" " * 1024, b"\0" * 1024, b"\n"])
def test_an_empty_pidfile_is_a_job_that_has_not_begun(empty: bytes) -> None:
    """The room reserved for it is blank."""
    assert records.load_pid(empty) is None


def test_a_stop_comes_back_as_it_was() -> None:
    """Cause, deadline, reason."""
    assert records.load_stop(records.dump_stop(STOP)) == STOP


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS.keys())
@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b"7", b"{}", b'{"version": 2}', b'{"version": 1}', b"\xff\xfe\xfd"],
)
def test_what_makes_no_sense_is_corrupt(load: Callable[[bytes], object], data: bytes) -> None:
    """Torn, of another version, or without its fields: one error."""
    with pytest.raises(RecordCorruptError):
        load(data)


@pytest.mark.parametrize("load", [LOADERS["spec"], LOADERS["stop"], LOADERS["exit"]])
@pytest.mark.parametrize("data", [b"", b"\0" * 4096])
def test_an_empty_record_is_corrupt(load: Callable[[bytes], object], data: bytes) -> None:
    """Only the pidfile may be blank."""
    with pytest.raises(RecordCorruptError):
        load(data)


@pytest.mark.parametrize("final", FINALS, ids=lambda final: type(final).__name__)
def test_every_torn_exit_record_is_corrupt(final: FinalState) -> None:
    """Wherever a write was cut, it is noticed."""
    whole = records.dump_exit(final).rstrip()

    for size in range(len(whole)):
        with pytest.raises(RecordCorruptError):
            records.load_exit(whole[:size])


def test_a_field_of_a_later_version_is_skipped() -> None:
    """Readers skip what they do not know."""
    body = json.loads(records.dump_exit(FINALS[0]))
    body["mood"] = "fine"

    assert records.load_exit(json.dumps(body).encode()) == FINALS[0]


def test_the_environment_is_not_in_a_specs_repr() -> None:
    """A spec may be logged by mistake; its secrets must not be."""
    assert "udcfe" not in repr(make_spec(MergedOutput()))
