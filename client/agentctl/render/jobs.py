"""Jobs and events as text and as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from agentctl.model import JSON_FIELDS, AgentInfo, Cause, Event, Job, JobState
from agentctl.render.color import Palette
from agentctl.render.table import Cell, Column, join, layout
from agentctl.render.units import (
    format_age,
    format_duration,
    format_local,
    format_rfc3339,
    format_size,
)
from agentctl.words import printable

_COLUMNS = (
    Column("ID", right=True),
    Column("NAME", yields=True),
    Column("STATE"),
    Column("TIME", right=True),
    Column("COMMAND"),
)

#: With a reason the end of a line is the reason's.
_COLUMNS_WITH_REASON = (
    Column("ID", right=True),
    Column("NAME", yields=True, share=5),
    Column("STATE"),
    Column("TIME", right=True),
    Column("COMMAND", yields=True, share=4),
    Column("REASON"),
)

_HOST_COLUMN = Column("HOST", yields=True)
_STATE_COLUMN = 2

_STYLES = {
    JobState.QUEUED: "cyan",
    JobState.STARTING: "cyan",
    JobState.RUNNING: "green",
    JobState.PAUSED: "yellow",
    JobState.STOPPING: "yellow",
    JobState.START_FAILED: "red",
    JobState.LOST: "magenta",
}

_LABEL_WIDTH = 14


def job_to_json(job: Job) -> dict[str, Any]:
    """Return the JSON form of a job: the contract's names in the contract's order. Pure."""
    return {name: _plain(getattr(job, name)) for name in JSON_FIELDS}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return format_rfc3339(value)
    return list(value) if isinstance(value, tuple) else value


def event_to_json(event: Event) -> dict[str, Any]:
    """Return the JSON form of an event. Pure."""
    return {
        "seq": event.seq,
        "occurred_at": format_rfc3339(event.occurred_at),
        "kind": event.kind,
        "job_id": event.job.id,
        "detail": event.detail or None,
        "job": job_to_json(event.job),
    }


def agent_to_json(info: AgentInfo) -> dict[str, Any]:
    """Return the JSON form of the agent's status. Pure."""
    return {
        "warden_pid": info.warden_pid,
        "server_pid": info.server_pid,
        "version": info.version,
        "api_level": info.api_level,
        "socket": info.socket,
        "state_dir": info.state_dir,
        "started_at": format_rfc3339(info.started_at),
        "jobs": info.jobs,
        "config_error": info.config_error or None,
    }


def dump_object(value: dict[str, Any]) -> str:
    """Return one JSON object over several lines. Pure."""
    return json.dumps(value, indent=2)


def dump_lines(values: Iterable[dict[str, Any]]) -> Iterable[str]:
    """Yield the lines of one JSON array, an object a line. Pure."""
    separator = "["
    for value in values:
        yield f"{separator}{json.dumps(value)}"
        separator = ","
    yield "[]" if separator == "[" else "]"


def command_text(argv: Sequence[str]) -> str:
    """Return the command as one would type it, on one line. Pure."""
    return printable(shlex.join(argv))


def state_text(job: Job) -> str:
    """Return "running", "exited 7", "SIGKILL guard", "start failed", … Pure."""
    if job.state is JobState.START_FAILED:
        return "start failed"
    if job.state is not JobState.ENDED:
        return job.state.value
    end = job.signal if job.signal is not None else f"exited {job.exit_code}"
    return end if job.cause in (None, Cause.SELF) else f"{end} {job.cause}"


def state_style(job: Job) -> str:
    """Return the style the state is painted in. Pure."""
    if job.state is JobState.ENDED:
        return "dim" if job.succeeded else "red"
    return _STYLES[job.state]


def time_text(job: Job, now: datetime) -> str:
    """Return how long the job has run, or ran. Pure."""
    if job.started_at is None:
        return "-"
    if job.is_over:
        return "-" if job.duration_s is None else format_duration(job.duration_s)
    return format_age(job.started_at, now)


def job_table(jobs: Sequence[Job], now: datetime, palette: Palette, width: int | None) -> list[str]:
    """Return the lines of a table of jobs; `width` None leaves commands whole. Pure."""
    with_reason = any(job.reason for job in jobs)
    rows = [_row(job, now, with_reason=with_reason) for job in jobs]
    columns = _COLUMNS_WITH_REASON if with_reason else _COLUMNS
    return _painted(columns, rows, palette, width)


def job_table_of_hosts(
    jobs: Sequence[Job],
    seen_at: Mapping[str, datetime],
    now: datetime,
    palette: Palette,
    width: int | None,
) -> list[str]:
    """Return the same with a column for the host. Pure.

    Jobs of a host in `seen_at` are told as they were then: nobody knows what became of them.
    """
    with_reason = any(job.reason for job in jobs)
    rows = []
    for job in jobs:
        then = seen_at.get(job.host)
        row = _row(job, then or now, with_reason=with_reason)
        if then is not None and not job.is_over:
            row[_STATE_COLUMN] = Cell(f"{state_text(job)} {format_age(then, now)} ago", "dim")
        rows.append([Cell(printable(job.host)), *row])
    columns = (_HOST_COLUMN, *(_COLUMNS_WITH_REASON if with_reason else _COLUMNS))
    return _painted(columns, rows, palette, width)


def absence_line(host: str, why: str, seen_at: datetime | None, now: datetime) -> str:
    """Return one line about a host that did not answer, for the end of a listing. Pure."""
    known = (
        "it was never seen from here"
        if seen_at is None
        else f"last seen {format_age(seen_at, now)} ago"
    )
    return f"{printable(host)} does not answer, {known} ({printable(why)})"


def _painted(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], palette: Palette, width: int | None
) -> list[str]:
    return [
        join([palette.paint(cell.text, cell.style) for cell in row])
        for row in layout(columns, rows, width)
    ]


def _row(job: Job, now: datetime, *, with_reason: bool) -> list[Cell]:
    row = [
        Cell(str(job.id)),
        Cell(printable(job.name or "-")),
        Cell(state_text(job), state_style(job)),
        Cell(time_text(job, now)),
        Cell(command_text(job.argv)),
    ]
    return [*row, Cell(_short_reason(job))] if with_reason else row


def _short_reason(job: Job) -> str:
    """Return the reason without what stands in the column STATE already. Pure."""
    reason = printable(job.reason or "")
    _, colon, why = reason.partition(" by the guard: ")
    if colon and not job.is_over:
        return f"guard: {why}"
    reason = reason.removeprefix("stopped by the guard: ")
    return f"requeue waits; {reason}" if job.requeue_at is not None else reason


def pairs_text(pairs: Iterable[tuple[str, str]], palette: Palette) -> list[str]:
    """Return a block of aligned names and values, those without a value left out. Pure."""
    return [
        f"{palette.paint(name.ljust(_LABEL_WIDTH), 'bold')}{value}"
        for name, value in pairs
        if value
    ]


def job_block(job: Job, directory: str, now: datetime, palette: Palette) -> list[str]:
    """Return everything known of a job for people; `directory` holds its files. Pure."""
    pairs = [
        ("job", str(job.id)),
        ("name", printable(job.name or "")),
        ("state", palette.paint(_state_sentence(job), state_style(job))),
        ("reason", printable(job.reason or "")),
        ("path", printable(job.path or "")),
        ("command", command_text(job.argv)),
        ("cwd", printable(job.cwd)),
        ("labels", printable(", ".join(f"{k}={v}" for k, v in sorted(job.labels.items())))),
        ("submitted", _moment(job.submitted_at, now)),
        ("started", _moment(job.started_at, now)),
        ("ended", _moment(job.ended_at, now)),
        ("time", time_text(job, now) if job.started_at else ""),
        ("pid", f"{job.pid} (shim {job.shim_pid or 'none'})" if job.pid else ""),
        ("still running", ", ".join(map(str, job.surviving_pids))),
        ("memory limit", _limit_text(job)),
        ("preemptible", "the first to go when memory runs out" if job.preemptible else ""),
        ("requeue", _requeue_text(job, now)),
        ("memory", _size(job.memory_bytes)),
        ("peak memory", _size(job.peak_memory_bytes)),
        ("cpu time", "" if job.cpu_s is None else f"{job.cpu_s:.2f}s"),
        ("output", f"{job.output_kind}, {format_size(job.log_bytes)}"),
        ("files", printable(directory)),
    ]
    return pairs_text(pairs, palette)


def _state_sentence(job: Job) -> str:
    text = state_text(job)
    if job.core_dumped:
        text += ", core dumped"
    if job.state is JobState.STOPPING and job.cause is not None:
        text += f" ({job.cause})"
    return text


def _limit_text(job: Job) -> str:
    if job.mem_limit_bytes is None:
        return ""
    return f"{format_size(job.mem_limit_bytes)}, then {job.mem_action or 'kill'}"


def _requeue_text(job: Job, now: datetime) -> str:
    if not job.requeue_limit:
        return ""
    parts = [f"{job.requeue_count} of {job.requeue_limit} used"]
    if job.requeue_of is not None:
        parts.append(f"this is job {job.requeue_of} again")
    if job.requeued_as is not None:
        parts.append(f"goes on as job {job.requeued_as}")
    elif job.requeue_at is not None:
        parts.append(_requeue_wait(job.requeue_at, now))
    elif job.requeue_cancelled is not None:
        parts.append(f"cancelled: {printable(job.requeue_cancelled)}")
    elif job.cause is Cause.GUARD and job.is_over and job.requeue_count >= job.requeue_limit:
        parts.append("used up")
    return ", ".join(parts)


def _requeue_wait(at: datetime, now: datetime) -> str:
    if at <= now:
        return "again once the host has memory"
    return f"again at {format_local(at)}, once the host has memory"


def _moment(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return ""
    return f"{format_local(moment)} ({format_age(moment, now)} ago)"


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else format_size(size_bytes)


def candidates_text(jobs: Sequence[Job], now: datetime) -> str:
    """Return "7 (running, 3m07s old), 5 (exited 0, 2h05m old)". Pure."""
    return ", ".join(
        f"{job.id} ({state_text(job)}, {format_age(job.submitted_at, now)} old)" for job in jobs
    )


def event_line(event: Event, palette: Palette, *, with_host: bool = False) -> str:
    """Return one line for an event. Pure."""
    name = f" ({printable(event.job.name)})" if event.job.name else ""
    # An end in the words of the listing, whatever the agent's own are.
    detail = event.detail
    if event.kind == "job.ended":
        detail = "  ".join(filter(None, (_state_sentence(event.job), event.job.reason)))
    parts = [
        palette.paint(format_rfc3339(event.occurred_at, "milliseconds"), "dim"),
        *([printable(event.job.host)] if with_host else []),
        f"job {event.job.id}{name}",
        palette.paint(printable(event.kind), "bold"),
        printable(detail),
    ]
    return join(parts)


def agent_block(info: AgentInfo, now: datetime, palette: Palette) -> list[str]:
    """Return the agent's status for people. Pure."""
    config = "" if not info.config_error else palette.paint(printable(info.config_error), "red")
    pairs = [
        ("agent", f"{info.version} (API level {info.api_level}) on {printable(info.hostname)}"),
        ("running for", format_age(info.started_at, now)),
        ("jobs", f"{info.jobs} active, {info.total_jobs} in all"),
        ("warden", f"pid {info.warden_pid}"),
        ("server", f"pid {info.server_pid}"),
        ("socket", printable(info.socket)),
        ("state", printable(info.state_dir)),
        ("config", config),
    ]
    return pairs_text(pairs, palette)


def end_line(job: Job) -> str:
    """Return what became of a job that is over, in one line. Pure."""
    if job.state is JobState.START_FAILED:
        return f"job {job.id} did not start: {printable(job.reason or 'no reason was given')}"
    if job.state is JobState.LOST:
        why = printable(job.reason or "nobody saw its end")
        return f"job {job.id} is lost, its exit status is unknown: {why}"
    if job.cause is Cause.GUARD and job.reason:
        how = job.signal or f"exited {job.exit_code}"
        return f"job {job.id}: {how}, {printable(job.reason)}"
    return f"job {job.id}: {_state_sentence(job)}"
