"""The guard as text and as JSON."""

from __future__ import annotations

import textwrap
from typing import Any

from agentctl.guard import Guard, GuardedJob, GuardNotice, HostMemory, Mark
from agentctl.render.color import Palette
from agentctl.render.table import Cell, Column, join, layout, printable
from agentctl.render.units import format_duration, format_local, format_rfc3339, format_size

_COLUMNS = (
    Column("JOB", right=True),
    Column("NAME", yields=True),
    Column("USES", right=True),
    Column("LIMIT", right=True),
    Column("LEFT", right=True),
    Column("GROWTH", right=True),
    Column("WHY"),
)
_STYLES = {Mark.WARN: "yellow", Mark.PAUSE: "yellow", Mark.TERM: "red", Mark.KILL: "red"}
_LABEL_WIDTH = 9
#: Slower than this is noise.
_STEADY_BYTES_PER_S = 64 << 10
#: Of the notices, so that the rest stays on the screen; JSON has them all.
_NOTICES = 10
#: Beyond this a forecast says nothing.
_FAR_S = 3600.0


def guard_to_json(guard: Guard) -> dict[str, Any]:
    """Return the JSON form of a report. Pure."""
    host = guard.host
    return {
        "enabled": guard.enabled,
        "dry_run": guard.dry_run,
        "layers": list(guard.layers),
        "host": {
            "total_bytes": host.total_bytes,
            "available_bytes": host.available_bytes,
            "falling_bytes_per_s": host.falling_bytes_per_s,
            "exhausted_after_s": host.exhausted_after_s,
            "warn_bytes": host.warn_bytes,
            "pause_bytes": host.pause_bytes,
            "term_bytes": host.term_bytes,
            "kill_bytes": host.kill_bytes,
            "crossed": host.crossed,
        },
        "jobs": [_job_to_json(job) for job in guard.jobs],
        "notices": [_notice_to_json(notice) for notice in guard.notices],
    }


def _job_to_json(job: GuardedJob) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "name": job.name,
        "upper_bytes": job.upper_bytes,
        "held_bytes": job.held_bytes,
        "limit_bytes": job.limit_bytes,
        "headroom_bytes": job.headroom_bytes,
        "growing_bytes_per_s": job.growing_bytes_per_s,
        "why": job.why,
    }


def _notice_to_json(notice: GuardNotice) -> dict[str, Any]:
    return {
        "kind": notice.kind,
        "occurred_at": format_rfc3339(notice.occurred_at),
        "job_id": notice.job_id,
        "text": notice.text,
    }


def guard_block(guard: Guard, palette: Palette, width: int | None) -> list[str]:
    """Return the whole report for people; `width` None leaves lines whole. Pure."""
    lines = [
        *_labelled("guard", [_mode(guard, palette)], palette),
        *_labelled("memory", [_memory(guard.host, palette)], palette),
        *_labelled("marks", [_marks(guard.host, palette)], palette),
        *_labelled("layers", [part for line in guard.layers for part in _wrapped(line, width)],
                   palette),
    ]  # fmt: skip
    if guard.jobs:
        lines += ["", *_job_table(guard.jobs, palette, width)]
    else:
        lines += _labelled("jobs", ["none"], palette)
    lines += [""] if guard.notices else []
    for notice in guard.notices[-_NOTICES:]:
        lines += _notice(notice, palette, width)
    return lines


def _labelled(label: str, values: list[str], palette: Palette) -> list[str]:
    labels = [palette.paint(label.ljust(_LABEL_WIDTH), "bold"), *[" " * _LABEL_WIDTH] * len(values)]
    return [f"{name}{value}" for name, value in zip(labels, values, strict=False)]


def _mode(guard: Guard, palette: Palette) -> str:
    if not guard.enabled:
        return palette.paint("off", "red") + ": nothing stops a job that takes all memory"
    if guard.dry_run:
        return palette.paint("dry run", "yellow") + ": it says what it would do, and does nothing"
    return palette.paint("on", "green")


def _memory(host: HostMemory, palette: Palette) -> str:
    parts = [f"{format_size(host.available_bytes)} of {format_size(host.total_bytes)} available"]
    if abs(host.falling_bytes_per_s) >= _STEADY_BYTES_PER_S:
        word = "falling" if host.falling_bytes_per_s > 0 else "growing"
        parts.append(f"{word} {format_size(abs(host.falling_bytes_per_s))}/s")
        if host.exhausted_after_s is not None and host.exhausted_after_s < _FAR_S:
            parts.append(f"gone in {format_duration(host.exhausted_after_s)}")
    if host.crossed is not None:
        parts.append(palette.paint(f"below {host.crossed}", _STYLES[host.crossed]))
    return ", ".join(parts)


def _marks(host: HostMemory, palette: Palette) -> str:
    crossed = host.crossed
    parts = []
    for mark in Mark:
        text = f"{mark} {format_size(host.mark_bytes(mark))}"
        parts.append(palette.paint(text, _STYLES[mark]) if mark is crossed else text)
    return ", ".join(parts)


def _wrapped(text: str, width: int | None, indent: int = _LABEL_WIDTH) -> list[str]:
    clean = printable(text)
    if width is None:
        return [clean]
    return textwrap.wrap(clean, max(20, width - indent)) or [""]


def _job_table(jobs: tuple[GuardedJob, ...], palette: Palette, width: int | None) -> list[str]:
    rows = [
        (
            Cell(str(job.job_id)),
            Cell(printable(job.name or "-")),
            Cell(_uses(job)),
            Cell("-" if job.limit_bytes is None else format_size(job.limit_bytes)),
            _left(job),
            Cell(_growth(job.growing_bytes_per_s)),
            Cell(printable(job.why)),
        )
        for job in jobs
    ]
    return [
        join([palette.paint(cell.text, cell.style) for cell in row])
        for row in layout(_COLUMNS, rows, width)
    ]


def _uses(job: GuardedJob) -> str:
    if job.held_bytes is not None:
        return format_size(job.held_bytes)
    if not job.upper_bytes:
        # Far from every mark there was no need to look at it yet.
        return "-"
    return f"≤ {format_size(job.upper_bytes)}"


def _left(job: GuardedJob) -> Cell:
    headroom_bytes = job.headroom_bytes
    if headroom_bytes is None:
        return Cell("-")
    # What is only known not to be less may be innocent.
    if headroom_bytes < 0:
        return Cell("over", "red") if job.held_bytes is not None else Cell("over?", "yellow")
    return Cell(format_size(headroom_bytes))


def _growth(bytes_per_s: int) -> str:
    if abs(bytes_per_s) < _STEADY_BYTES_PER_S:
        return "-"
    return f"{'+' if bytes_per_s > 0 else '-'}{format_size(abs(bytes_per_s))}/s"


def _notice(notice: GuardNotice, palette: Palette, width: int | None) -> list[str]:
    when = format_local(notice.occurred_at)[:-6]
    about = "host" if notice.job_id is None else f"job {notice.job_id}"
    head = f"{when}  {about}  "
    text = _wrapped(notice.text, width, len(head))
    painted = f"{palette.paint(when, 'dim')}  {palette.paint(about, 'bold')}  "
    return [f"{painted}{text[0]}", *(" " * len(head) + more for more in text[1:])]
