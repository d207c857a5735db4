"""Jobs, tables, units and logs as text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentctl.model import JSON_FIELDS, Cause, Chunk, Event, Gap, GapReason, JobState, LogTime
from agentctl.render import jobs as render
from agentctl.render.color import Palette
from agentctl.render.log import LineStamper, gap_line
from agentctl.render.table import cut, width_of
from agentctl.render.units import format_duration, format_rfc3339, format_size
from agentctl.words import printable
from tests.unit.agentctl.samples import AT, later, sample_job

PLAIN = Palette(enabled=False)
COLOURED = Palette(enabled=True)


def test_json_has_the_contracts_names_in_the_contracts_order() -> None:
    """Programs rely on them."""
    expected = [
        *("id", "name", "state", "argv", "cwd", "labels", "submitted_at", "started_at"),
        *("ended_at", "exit_code", "signal", "cause", "reason", "pid", "shim_pid"),
        *("mem_limit_bytes", "peak_memory_bytes", "memory_bytes", "cpu_s", "log_bytes", "host"),
        *("mem_action", "preemptible", "requeue_limit", "requeue_of", "requeued_as"),
        "requeue_at",
    ]
    assert list(JSON_FIELDS) == expected
    assert list(render.job_to_json(sample_job(JobState.RUNNING))) == expected


def test_json_times_are_rfc3339_utc_and_absent_values_null() -> None:
    """One form of time, and null rather than a word for nothing."""
    body = json.loads(render.dump_object(render.job_to_json(sample_job(JobState.RUNNING))))
    assert body["submitted_at"] == "2025-03-01T12:00:00.250000Z"
    assert body["ended_at"] is None
    assert body["mem_limit_bytes"] is None
    assert body["argv"] == ["python", "train.py", "--name", "two words"]


def test_bytes_that_are_not_utf8_pass_json() -> None:
    """An argument need not be text."""
    job = replace(sample_job(JobState.RUNNING), argv=("cat", "\udcff"))
    text = render.dump_object(render.job_to_json(job))
    assert text.isascii()
    assert json.loads(text)["argv"] == ["cat", "\udcff"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_listing_is_one_json_array(count: int) -> None:
    """An object a line, an empty array for nothing."""
    values = [{"id": number} for number in range(count)]
    assert json.loads("\n".join(render.dump_lines(values))) == values


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exit_code": 7}, "exited 7"),
        ({"exit_code": 0, "cause": Cause.USER}, "exited 0 user"),
        ({"exit_code": None, "signal": "SIGKILL", "cause": Cause.GUARD}, "SIGKILL guard"),
        ({"exit_code": None, "signal": "SIGSEGV"}, "SIGSEGV"),
    ],
)
def test_an_end_says_status_and_who(changes: dict[str, Any], text: str) -> None:
    """The cause is named unless it was the job itself."""
    assert render.state_text(replace(sample_job(JobState.ENDED), **changes)) == text


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_can_be_shown(state: JobState) -> None:
    """In the table, in the block and in colour."""
    job = sample_job(state)
    assert render.state_text(job)
    assert render.state_style(job)
    assert render.job_table([job], later(60), COLOURED, 80)
    assert render.job_block(job, "/s/jobs/7", later(60), COLOURED)
    assert render.end_line(job)


def test_the_table_is_aligned_and_plain_off_a_terminal() -> None:
    """No colour, no cut, one line a job."""
    lines = render.job_table(
        [sample_job(JobState.RUNNING, 123), sample_job(JobState.ENDED, 7)], later(61), PLAIN, None
    )
    assert lines == [
        " ID  NAME   STATE      TIME  COMMAND",
        "123  train  running   1m00s  python train.py --name 'two words'",
        "  7  train  exited 0  2m05s  python train.py --name 'two words'",
    ]


def test_the_command_is_cut_to_the_terminal() -> None:
    """No line is wider than the screen."""
    job = replace(sample_job(JobState.RUNNING), argv=("echo", "x" * 500))
    lines = render.job_table([job], later(60), PLAIN, 60)
    assert [width_of(line) for line in lines] == [33, 60]
    assert lines[1].endswith("…")


def test_a_long_name_takes_a_third_of_the_terminal() -> None:
    """And leaves room for the command."""
    job = replace(sample_job(JobState.RUNNING), name="n" * 200)
    line = render.job_table([job], later(60), PLAIN, 60)[1]
    assert width_of(line) == 60
    assert f"  {'n' * 19}…  running" in line


def test_a_long_name_does_not_widen_the_lines_of_the_others() -> None:
    """Off a terminal it stands whole and runs over."""
    jobs = [replace(sample_job(JobState.RUNNING), name="n" * 200), sample_job(JobState.RUNNING)]
    lines = render.job_table(jobs, later(60), PLAIN, None)
    assert "n" * 200 in lines[1]
    assert len(lines[2]) < 110


def test_colours_do_not_move_columns() -> None:
    """Escape sequences take no room."""
    jobs = [sample_job(state, number) for number, state in enumerate(JobState, start=1)]
    plain = render.job_table(jobs, later(60), PLAIN, 80)
    coloured = render.job_table(jobs, later(60), COLOURED, 80)
    assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in coloured] == plain


@given(st.text())
def test_nothing_a_terminal_acts_on_is_printed(text: str) -> None:
    """A job's name or arguments cannot write to the screen as they like."""
    assert printable(text).isprintable() or not text.isprintable()
    assert "\x1b" not in printable(text)
    assert "\n" not in printable(text)


def test_a_byte_that_is_not_utf8_is_written_out() -> None:
    """As hexadecimal."""
    assert printable("a\udcff\x1b[31m\n") == "a\\xff\\x1b[31m\\n"


def test_wide_characters_count_twice() -> None:
    """Columns stay aligned with names in any script."""
    assert width_of("日本") == 4
    assert cut("日本語", 4) == "日…"
    assert width_of("e\u0301") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0s"),
        (0.44, "0.4s"),
        (42, "42s"),
        (187, "3m07s"),
        (7500, "2h05m"),
        (356400, "4d03h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    """Short enough for a column."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (1536, "1.5 KiB"), (16 << 30, "16 GiB")],
)
def test_sizes_are_binary_units(size_bytes: int, text: str) -> None:
    """As the options are read."""
    assert format_size(size_bytes) == text


def test_an_event_is_one_line() -> None:
    """Time, job, kind, detail; JSON with the job inside."""
    event = Event(9, AT, "job.signal_sent", sample_job(JobState.RUNNING), "SIG\nUSR1")
    assert render.event_line(event, PLAIN) == (
        "2025-03-01T12:00:00.250Z  job 7 (train)  job.signal_sent  SIG\\nUSR1"
    )
    body = render.event_to_json(event)
    assert (body["seq"], body["kind"], body["job_id"]) == (9, "job.signal_sent", 7)
    assert body["job"]["state"] == "running"


def test_an_end_among_the_events_reads_as_in_the_listing() -> None:
    """One wording for one thing."""
    job = replace(
        sample_job(JobState.ENDED), exit_code=None, signal="SIGKILL", cause=Cause.USER, name=None
    )
    assert render.event_line(Event(9, AT, "job.ended", job, ""), PLAIN) == (
        "2025-03-01T12:00:00.250Z  job 7  job.ended  SIGKILL user"
    )


def test_candidates_are_told_by_id_state_and_age() -> None:
    """Enough to choose one."""
    jobs = [sample_job(JobState.RUNNING, 9), sample_job(JobState.ENDED, 7)]
    assert render.candidates_text(jobs, later(180)) == (
        "9 (running, 3m00s old), 7 (exited 0, 3m00s old)"
    )


def test_a_gap_names_bytes_and_reason() -> None:
    """Two reasons, two sentences."""
    assert gap_line(Gap(100, 4_900_000_100, GapReason.RETENTION)) == (
        "[gap: 4,900,000,000 bytes dropped to keep the log within its size]\n"
    )
    assert "the disk was full" in gap_line(Gap(0, 1, GapReason.DISK_FULL))


def test_every_line_gets_the_time_it_was_written() -> None:
    """Also where a line, or a time, is split between chunks."""
    stamper = LineStamper()
    first = stamper.stamp(Chunk(0, b"one\ntw", (LogTime(0, AT),)))
    second = stamper.stamp(Chunk(6, b"o\nthree\n", (LogTime(8, later(1)),)))
    stamps = [format_rfc3339(moment, "milliseconds") for moment in (AT, later(1))]
    assert first + second == (f"{stamps[0]} one\n{stamps[0]} two\n{stamps[1]} three\n".encode())


def test_a_line_after_a_gap_is_stamped_anew() -> None:
    """What follows a gap does not continue the line before it."""
    stamper = LineStamper()
    stamper.stamp(Chunk(0, b"torn", (LogTime(0, AT),)))
    stamper.broken_line()
    assert stamper.stamp(Chunk(99, b"rest\n")).startswith(b"2025-03-01T12:00:00.250Z rest")


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_stamping_loses_no_byte(pieces: list[bytes]) -> None:
    """Without the stamps the lines are as they were."""
    stamper = LineStamper()
    data, offset = b"", 0
    for piece in pieces:
        data += stamper.stamp(Chunk(offset, piece))
        offset += len(piece)
    original = b"".join(pieces)
    stripped = b"\n".join(line[25:] for line in data.split(b"\n"))
    assert stripped == original
