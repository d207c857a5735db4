"""The guard as text and as JSON."""

from __future__ import annotations

import textwrap
from typing import Any

from agentctl.guard import Guard, GuardedJob, GuardNotice, HostMemory, Mark, NoticeKind
from agentctl.render.color import Palette
from agentctl.render.table import Cell, Column, cut, join, layout, width_of
from agentctl.render.units import format_duration, format_rfc3339, format_size
from agentctl.words import printable

_COLUMNS = (
    Column("JOB", right=True),
    Column("NAME", yields=True, share=6),
    Column("USES", right=True),
    Column("LIMIT", right=True),
    Column("LEFT", right=True),
    Column("GROWTH", right=True),
    Column("WHY"),
)
#: On a terminal narrower than this each value has its name before it, instead of a table.
_NARROW = 72
_INDENT = "    "
_STYLES = {Mark.WARN: "yellow", Mark.PAUSE: "yellow", Mark.TERM: "red", Mark.KILL: "red"}
_LABEL_WIDTH = 9
#: Slower than this is noise.
_STEADY_BYTES_PER_S = 64 << 10
#: Of the notices, so that the rest stays on the screen; JSON has them all.
_NOTICES = 10
#: A forecast is of use if the end is near, or not far and memory is low already.
_NEAR_S = 60.0
_FAR_S = 600.0
_WHOLE_PERCENT = 100


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
            "marks": {
                mark: {"percent": rule.percent, "cap_bytes": rule.cap_bytes}
                for mark, rule in host.rules.items()
            },
        },
        "jobs": [_job_to_json(job) for job in guard.jobs],
        "notices": [_notice_to_json(notice) for notice in guard.notices],
        "config_error": guard.config_error or None,
        "pause_limit_s": guard.pause_limit_s,
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
        "state": job.state,
        "preemptible": job.preemptible,
        "mem_action": job.mem_action,
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
    layers = [part for line in guard.layers for part in _wrapped(line, width)]
    parts = [("guard", _wrapped(_mode(guard), width))]
    if guard.config_error:
        parts.append(("config", _wrapped(f"not in force: {guard.config_error}", width)))
    parts += [
        ("memory", _wrapped(_memory(guard.host), width)),
        ("marks", _wrapped(_marks(guard.host), width)),
        ("layers", layers),
    ]
    if not guard.jobs:
        parts.append(("jobs", ["none"]))
    styles = {"guard": _mode_style(guard), "memory": _memory_style(guard.host), "config": "red"}
    lines = [
        line
        for label, values in parts
        for line in _labelled(label, values, palette, styles.get(label, ""))
    ]
    lines += _jobs(guard, palette, width)
    lines += [""] if guard.notices else []
    for notice in guard.notices[-_NOTICES:]:
        lines += _notice(notice, palette, width)
    return lines


def _labelled(label: str, values: list[str], palette: Palette, style: str) -> list[str]:
    labels = [palette.paint(label.ljust(_LABEL_WIDTH), "bold"), *[" " * _LABEL_WIDTH] * len(values)]
    painted = [palette.paint(value, style) for value in values]
    return [f"{name}{value}" for name, value in zip(labels, painted, strict=False)]


def _mode(guard: Guard) -> str:
    if not guard.enabled:
        return "off: nothing stops a job that takes all memory"
    if guard.dry_run:
        return "dry run: it says what it would do, and does nothing"
    return "on"


def _mode_style(guard: Guard) -> str:
    return "red" if not guard.enabled else "yellow" if guard.dry_run else "green"


def _memory(host: HostMemory) -> str:
    parts = [f"{format_size(host.available_bytes)} of {format_size(host.total_bytes)} available"]
    if abs(host.falling_bytes_per_s) >= _STEADY_BYTES_PER_S:
        word = "falling" if host.falling_bytes_per_s > 0 else "rising"
        parts.append(f"{word} {format_size(abs(host.falling_bytes_per_s))}/s")
    after_s = host.exhausted_after_s
    if after_s is not None and after_s < (_FAR_S if _is_low(host) else _NEAR_S):
        parts.append(f"gone in {format_duration(after_s)}")
    if host.crossed is not None:
        parts.append(f"below {host.crossed}")
    return ", ".join(parts)


def _is_low(host: HostMemory) -> bool:
    return host.available_bytes < 2 * host.warn_bytes


def _memory_style(host: HostMemory) -> str:
    return "" if host.crossed is None else _STYLES[host.crossed]


def _marks(host: HostMemory) -> str:
    return ", ".join(
        f"{mark} {format_size(host.mark_bytes(mark))}{_origin(mark, host)}" for mark in Mark
    )


def _origin(mark: Mark, host: HostMemory) -> str:
    """Return which of a mark's two numbers counts here. Pure."""
    rule = host.rules.get(mark)
    if rule is None:
        return ""
    is_share = host.total_bytes * rule.percent / _WHOLE_PERCENT < rule.cap_bytes
    return f" ({rule.percent:g} %)" if is_share else " (cap)"


def _wrapped(text: str, width: int | None, indent: int = _LABEL_WIDTH) -> list[str]:
    clean = printable(text)
    if width is None:
        return [clean]
    return textwrap.wrap(clean, max(20, width - indent)) or [""]


def _jobs(guard: Guard, palette: Palette, width: int | None) -> list[str]:
    # A guard that is off has no order in which it would act.
    jobs = guard.jobs if guard.enabled else sorted(guard.jobs, key=lambda job: job.job_id)
    whys = [printable(job.why) if guard.enabled else "" for job in jobs]
    if not jobs:
        return []
    if width is not None and width < _NARROW:
        blocks = (_job_block(job, why, palette, width) for job, why in zip(jobs, whys, strict=True))
        return ["", *(line for block in blocks for line in block)]
    rows = [_row(job, why) for job, why in zip(jobs, whys, strict=True)]
    columns = _COLUMNS if guard.enabled else _COLUMNS[:-1]
    if not guard.enabled or (width is not None and not _fits(rows, width)):
        rows, columns = [row[:-1] for row in rows], _COLUMNS[:-1]
    table = [
        join([palette.paint(cell.text, cell.style) for cell in row])
        for row in layout(columns, rows, width)
    ]
    if len(columns) == len(_COLUMNS):
        return ["", *table]
    lines = ["", table[0]]
    for line, why in zip(table[1:], whys, strict=True):
        lines += [line, *_below(why, palette, width)]
    return lines


def _row(job: GuardedJob, why: str) -> list[Cell]:
    return [
        Cell(str(job.job_id)),
        Cell(printable(job.name or "-")),
        Cell(_uses(job)),
        Cell("-" if job.limit_bytes is None else format_size(job.limit_bytes)),
        _left(job),
        Cell(_growth(job.growing_bytes_per_s)),
        Cell(why),
    ]


def _fits(rows: list[list[Cell]], width: int) -> bool:
    """Say whether there is room for the reasons in the table. Pure."""
    bare = layout(_COLUMNS[:-1], [row[:-1] for row in rows], width)
    left = width - max(width_of(join([cell.text for cell in row])) for row in bare) - 2
    return left >= max(width_of(row[-1].text) for row in rows)


def _below(why: str, palette: Palette, width: int | None) -> list[str]:
    if not why:
        return []
    lines = _wrapped(why, width, len(_INDENT))
    return [palette.paint(f"{_INDENT}{line}", "dim") for line in lines]


def _job_block(job: GuardedJob, why: str, palette: Palette, width: int) -> list[str]:
    """Return a job for a terminal with no room for a table. Pure."""
    name = f" {printable(job.name)}" if job.name else ""
    left = _left(job)
    facts = [f"uses {_uses(job)}"]
    if job.limit_bytes is not None:
        facts.append(f"limit {format_size(job.limit_bytes)}")
        facts.append(left.text if left.text.startswith("over") else f"{left.text} left")
    if _growth(job.growing_bytes_per_s) != "-":
        facts.append(_growth(job.growing_bytes_per_s))
    numbers = _wrapped(", ".join(facts), width, len(_INDENT))
    return [
        palette.paint(cut(f"job {job.job_id}{name}", width), "bold"),
        *(palette.paint(f"{_INDENT}{line}", left.style) for line in numbers),
        *_below(why, palette, width),
    ]


def _uses(job: GuardedJob) -> str:
    if job.held_bytes is not None:
        return format_size(job.held_bytes)
    # Far from every mark there was no need to look at it yet.
    return "not yet seen" if job.upper_bytes is None else f"≤ {format_size(job.upper_bytes)}"


def _left(job: GuardedJob) -> Cell:
    headroom_bytes = job.headroom_bytes
    if headroom_bytes is None:
        return Cell("-")
    if headroom_bytes >= 0:
        return Cell(format_size(headroom_bytes))
    text = f"over {format_size(-headroom_bytes)}"
    # What is only known not to be less may be innocent.
    return Cell(text, "red") if job.held_bytes is not None else Cell(f"{text}?", "yellow")


def _growth(bytes_per_s: int) -> str:
    if abs(bytes_per_s) < _STEADY_BYTES_PER_S:
        return "-"
    return f"{'+' if bytes_per_s > 0 else '-'}{format_size(abs(bytes_per_s))}/s"


def _notice(notice: GuardNotice, palette: Palette, width: int | None) -> list[str]:
    when = format_rfc3339(notice.occurred_at, "milliseconds")
    about = "host" if notice.job_id is None else f"job {notice.job_id}"
    head = f"{when}  {about}  "
    painted = f"{palette.paint(when, 'dim')}  {palette.paint(about, 'bold')}"
    told = _without_subject(notice)
    if width is None or width - len(head) >= len(head):
        text = _wrapped(told, width, len(head))
        return [f"{painted}  {text[0]}", *(" " * len(head) + more for more in text[1:])]
    return [painted, *(f"{_INDENT}{line}" for line in _wrapped(told, width, len(_INDENT)))]


def _without_subject(notice: GuardNotice) -> str:
    """Return the text without what stands before it already. Pure."""
    if notice.job_id is None:
        return notice.text.removeprefix("host ")
    if notice.kind is NoticeKind.WOULD_ACT:
        return notice.text.replace(f" job {notice.job_id}:", ":", 1)
    return notice.text
